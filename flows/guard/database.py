"""Makes writers of Prefect's SQLite database wait for one another.

Prefect begins most of its transactions DEFERRED: they read, and where another writer commits in between,
their own first write fails at once with "database is locked", whatever the busy time-out, and the caller
gets a 503. Begun IMMEDIATE, they queue for the lock (up to Prefect's busy time-out of 60 s).

Only the transaction itself is begun so. Prefect keeps the mode in a context variable, which whatever runs or
is started inside the transaction would inherit: a plain read there would ask for the lock that its own task
holds, and wait for itself. So the mode is set back as soon as the transaction has begun, and plain reads,
inside a transaction and outside, open none and wait for nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

WAIT_FOR_THE_LOCK: Final = "IMMEDIATE"


class QueueingSqlite(AioSqliteConfiguration):
    """SQLite whose transactions take the writer's lock when they begin."""

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """A transaction that holds the writer's lock, whatever `with_for_update` says.

        Raises:
            sqlalchemy.exc.OperationalError: the lock was not free within the busy time-out.
        """
        async with session.begin() as transaction:
            token = SQLITE_BEGIN_MODE.set(WAIT_FOR_THE_LOCK)
            try:
                # BEGIN is sent with the connection, not by `session.begin()`.
                await session.connection()
            finally:
                SQLITE_BEGIN_MODE.reset(token)
            yield transaction


def queue_writers() -> None:
    """Use it for the server of this process; another database than SQLite is left as it is.

    Call it before the server's application is made.
    """
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if get_dialect(url).name == "sqlite":
        MODELS_DEPENDENCIES["database_config"] = QueueingSqlite(connection_url=url)
