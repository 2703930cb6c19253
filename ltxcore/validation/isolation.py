"""One modality made alone: in every pass of the model it sees nothing of the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def isolated(transformer: Any) -> Iterator[None]:
    """Turn the attention between the modalities off in every call until the block ends.

    Each stream then is what it would be if the other were not there: nothing else joins them.
    """

    def isolate(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "isolate_modalities": True}

    hook = transformer.register_forward_pre_hook(isolate, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        hook.remove()
