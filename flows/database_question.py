"""A question to Prefect's SQLite file where no server runs: it is only read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def may_hold(database: Path, question: str, value: str) -> bool:
    """Whether the database has a row; True also if it is busy or of another version, so that nobody knows.

    Args:
        question: a SELECT with one place for `value`.
    """
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=1)) as opened:
            return opened.execute(question, (value,)).fetchone() is not None
    except sqlite3.Error:
        return True
