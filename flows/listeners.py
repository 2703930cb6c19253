"""Whether anybody hears of a workspace's runs while they go on, so that a Prefect server has to be there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from flows.database_question import may_hold
from flows.database_url import asked_database

OF_THE_HOUSE: Final = "ltx2-zombies"
"""deploy/automations.yaml has it; a run that watches its own processes has no need of it."""

AUTOMATIONS: Final = "SELECT 1 FROM automation WHERE enabled AND name != ? LIMIT 1"
"""Such as a message. Where the file cannot be read a server has to know."""


def somebody_listens(home: Path) -> bool:
    """Whether runs have to report at once: to a server or a database that was named, or to automations.

    Args:
        home: PREFECT_HOME, WORKSPACE/prefect.

    Raises:
        DatabaseRefused: the database that was named is none.
    """
    named = os.environ.get("PREFECT_API_URL") or asked_database()
    return bool(named) or may_hold(home / "prefect.db", AUTOMATIONS, OF_THE_HOUSE)
