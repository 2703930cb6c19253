"""MLflow's client with a deadline for each whole call, for a server that may be slow, stuck or dead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ltxcore.deadline import CALL_LIMIT_S, Caller, transfer_limit


class TimedClient:
    """The methods of a client, each ended after `limit_s`; a file may take what it takes to send it.

    A call that was given up may still hang in its thread. Until it ends, every further one fails at once, so
    that a server that never finishes an answer costs one wait and one thread.
    """

    def __init__(self, client: Any, limit_s: float = CALL_LIMIT_S) -> None:
        self._client, self._caller, self._limit_s = client, Caller(), limit_s

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            limit = self._limit_s
            if name == "log_artifact":
                limit += transfer_limit(Path(args[1]).stat().st_size)
            return self._caller.within(limit, f"MLflow's {name}", lambda: method(*args, **kwargs))

        return timed
