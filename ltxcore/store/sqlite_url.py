"""The address of a SQLite database for SQLAlchemy, whatever its path holds."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote


def sqlite_url(path: Path, driver: str = "sqlite+pysqlite") -> str:
    """An address that leads to `path` alone.

    Plainly written, all that follows a `?` in the path would be options, and the database would be elsewhere.
    SQLite takes its own `file:` addresses, in which such characters are escaped. The driver is named: what
    follows a mere `sqlite:///` MLflow takes for a path, and makes its folder, `file:`, where it was started.
    """
    return f"{driver}:///file:{quote(str(path.resolve()))}?uri=true"
