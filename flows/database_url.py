"""Where Prefect's server keeps its runs: the workspace's own SQLite file, or a database that was asked for.

The address may hold a password. Only the server process gets it, through its environment; messages only name
user, host and database.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flows.environment import ASKED_DATABASE, DATABASE_URL
from flows.readiness import ServerError
from ltxcore.deadline import CALL_LIMIT_S
from ltxcore.store.sqlite_url import sqlite_url

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

OPTION: Final = "--database"
POSTGRES: Final = "postgresql+asyncpg"
SQLITE: Final = ("sqlite", "sqlite+aiosqlite")
FORMS: Final = f"{POSTGRES}://USER@HOST:5432/NAME or sqlite:////FOLDER/FILE.db"
MEANT: Final = ("postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2")


class DatabaseRefused(ServerError):
    """The database that was asked for cannot be used; the text says what to write instead, and no secret."""


def asked_database(option: str = "", given: Mapping[str, str] | None = None) -> str:
    """The address for Prefect's server; empty for the workspace's own file.

    The option goes before LTX2_DATABASE_URL, and that before Prefect's own variable. A SQLite file in the
    latter is passed over: the servers of another workspace may have set it.

    Raises:
        DatabaseRefused: the address is none that the server can use, or the option holds a password, which
            every user of the machine could read there.
    """
    given = os.environ if given is None else given
    if option:
        url = _checked(option, OPTION)
        if url.password is not None or "password" in url.query:
            raise DatabaseRefused(
                f"{OPTION} holds a password, and every user of this machine can read command lines. Set the "
                f"variable {ASKED_DATABASE} to the whole address instead, or leave the password out and set "
                "PGPASSWORD or write it into ~/.pgpass."
            )
        return _written(url)
    if asked := given.get(ASKED_DATABASE):
        return _written(_checked(asked, ASKED_DATABASE))
    prefects = given.get(DATABASE_URL, "")
    if not prefects or prefects.startswith("sqlite"):
        return ""
    return _written(_checked(prefects, DATABASE_URL))


def shown_database(url: str) -> str:
    """An address without its password and its options."""
    from sqlalchemy import URL, make_url

    known = make_url(url)
    return URL.create(
        known.drivername, known.username, host=known.host, port=known.port, database=known.database
    ).render_as_string()


def check_reachable(url: str) -> None:
    """Sign in to the PostgreSQL database of an address that `asked_database` gave, as the server will.

    Raises:
        DatabaseRefused: nobody answers there, or the user is not let in.
    """
    if not url.startswith(POSTGRES):
        return
    from asyncpg import InvalidAuthorizationSpecificationError, InvalidCatalogNameError, PostgresError

    try:
        asyncio.run(asyncio.wait_for(_sign_in(url), CALL_LIMIT_S))
    except InvalidCatalogNameError as error:
        why = f"{error}. Make it: createdb NAME, by a user who may"
    except InvalidAuthorizationSpecificationError as error:
        why = f"{error}. Look at user and password"
    except TimeoutError:
        why = f"nobody answers within {CALL_LIMIT_S:.0f} s. Check host and port"
    except (OSError, PostgresError) as error:
        why = f"{error}. Start that server, or check host and port"
    else:
        return
    raise DatabaseRefused(f"The database {shown_database(url)} cannot be used: {why}.")


async def _sign_in(url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url)
    try:
        async with engine.connect():
            pass
    finally:
        await engine.dispose()


def _checked(address: str, name: str) -> URL:
    """The parsed address. Messages name only parts that hold no secret."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise DatabaseRefused(f"{name} is not the address of a database. Write {FORMS}.") from None
    if url.drivername in MEANT:
        raise DatabaseRefused(
            f"{name} begins with {url.drivername}://, which Prefect cannot use. Write {POSTGRES}:// and the "
            "rest as it is."
        )
    if url.drivername == POSTGRES:
        if "@" in (url.host or ""):
            raise DatabaseRefused(f"{name} has an @ in its user or password. Write it as %40.")
        if not url.database:
            raise DatabaseRefused(f"{name} names no database. Write {POSTGRES}://USER@HOST:5432/NAME.")
    elif url.drivername in SQLITE:
        _check_file(url, name)
    else:
        raise DatabaseRefused(
            f"{name} begins with {url.drivername}://, and Prefect keeps its runs in PostgreSQL or SQLite. "
            f"Write {FORMS}."
        )
    return url


def _check_file(url: URL, name: str) -> None:
    path = url.database or ""
    if url.query:
        raise DatabaseRefused(f"{name} has options behind a ?. Write sqlite:////FOLDER/FILE.db alone.")
    if not path.startswith("/"):
        message = "keeps nothing" if path in ("", ":memory:") else f"names {path!r}, relative to no folder"
        raise DatabaseRefused(f"{name} {message}. Write the whole path behind four slashes: {FORMS}.")
    folder = Path(path).parent
    if not folder.is_dir():
        raise DatabaseRefused(f"{name}: there is no folder {folder}. Make it, or name another.")
    if Path(path).is_dir():
        raise DatabaseRefused(f"{name}: {path} is a folder. Name a file in it.")


def _written(url: URL) -> str:
    if url.drivername in SQLITE:
        return sqlite_url(Path(url.database or ""), "sqlite+aiosqlite")
    return url.render_as_string(hide_password=False)
