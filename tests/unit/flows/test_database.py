"""Transactions on the SQLite database of a workspace's server: who takes the lock of writers, and who not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from flows.guard.database import QueueingSqlite

BUSY_MS = 100  # Whoever would have to wait for a lock of this test fails soon.
INSERT = sa.text("INSERT INTO notes VALUES ('one')")
COUNT = sa.text("SELECT count(*) FROM notes")


class Sessions:
    """Sessions as Prefect opens them, on a database with one empty table."""

    def __init__(self, config: AioSqliteConfiguration) -> None:
        self.config = config

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[AsyncSession]:
        async with await self.config.session(await self.config.engine()) as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        async with self.plain() as session, self.config.begin_transaction(session):
            yield session

    async def count(self) -> int:
        async with self.plain() as session:
            return int((await session.execute(COUNT)).scalar_one())


def on_a_database(path: Path, work: Callable[[Sessions], Awaitable[None]]) -> None:
    def impatient(connection: Any, _: Any) -> None:
        connection.cursor().execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    async def whole() -> None:
        config = QueueingSqlite(connection_url=f"sqlite+aiosqlite:///{path}")
        engine = await config.engine()
        sa.event.listen(engine.sync_engine, "connect", impatient)
        sessions = Sessions(config)
        async with sessions.writing() as session:
            await session.execute(sa.text("CREATE TABLE notes (text VARCHAR)"))
        await work(sessions)
        await engine.dispose()

    asyncio.run(whole())


def test_a_read_inside_a_transaction_waits_for_nobody(tmp_path: Path) -> None:
    async def work(sessions: Sessions) -> None:
        async with sessions.writing() as session:
            await session.execute(INSERT)
            assert await sessions.count() == 0
            assert await asyncio.create_task(sessions.count()) == 0
        assert await sessions.count() == 1

    on_a_database(tmp_path / "nested.db", work)


def test_a_task_started_inside_a_transaction_takes_no_lock_later(tmp_path: Path) -> None:
    async def work(sessions: Sessions) -> None:
        over, read, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def started_inside() -> None:
            await over.wait()
            async with sessions.plain() as session:
                assert (await session.execute(COUNT)).scalar_one() == 1
                read.set()
                await done.wait()

        async with sessions.writing() as session:
            task = asyncio.create_task(started_inside())
            await session.execute(INSERT)
        over.set()
        await read.wait()
        async with sessions.writing() as session:
            await session.execute(INSERT)
        done.set()
        await task
        assert await sessions.count() == 2

    on_a_database(tmp_path / "later.db", work)


def test_a_transaction_has_the_lock_from_its_beginning(tmp_path: Path) -> None:
    async def work(sessions: Sessions) -> None:
        async with sessions.writing():
            with pytest.raises(OperationalError, match="database is locked"):
                async with sessions.writing():
                    pytest.fail("two writers at once")
        # The one that failed has left nothing behind.
        async with sessions.writing() as session:
            await session.execute(INSERT)
        assert await sessions.count() == 1

    on_a_database(tmp_path / "begin.db", work)


def test_an_error_rolls_back_and_frees_the_lock(tmp_path: Path) -> None:
    async def work(sessions: Sessions) -> None:
        async def failing() -> None:
            async with sessions.writing() as session:
                await session.execute(INSERT)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing()
        assert await sessions.count() == 0
        async with sessions.writing() as session:
            await session.execute(INSERT)
        assert await sessions.count() == 1

    on_a_database(tmp_path / "error.db", work)
