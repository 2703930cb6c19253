"""One GPU stage at a time on a host: a leased slot of the global concurrency limit `gpu:<host>`.

A work pool's own limit is not enough: a zombie holds its slot for ever. A lease comes back by itself, 60 to
90 s after its holder died. Take it before torch is imported: a stage that waits then costs 100 MB.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from prefect import get_client, runtime
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_run_logger

logger = logging.getLogger(__name__)
LEASE_S: Final = 60


def gpu_limit_name() -> str:
    """The name of this host's limit."""
    return f"gpu:{socket.gethostname()}"


def ensure_gpu_limit(client: SyncPrefectClient) -> GlobalConcurrencyLimitResponse:
    """This host's limit, made with one slot if it is not there; a limit that the user has set is left."""
    name = gpu_limit_name()
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        try:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        except ObjectAlreadyExists:
            logger.debug("another process made the limit %s at the same moment", name)
        return client.read_global_concurrency_limit_by_name(name)


@contextmanager
def gpu_lease() -> Iterator[None]:
    """Hold a GPU slot of this host; waits for as long as others hold them all. Call it in a flow run."""
    with get_client(sync_client=True) as client:
        limit = ensure_gpu_limit(client)
    if limit.active and limit.active_slots >= limit.limit:
        get_run_logger().info("Waiting for a slot of %s: another stage holds the GPU", limit.name)
    with concurrency(
        limit.name,
        occupy=1,
        lease_duration=LEASE_S,
        strict=True,
        # The stage outlives a short absence of the server.
        raise_on_lease_renewal_failure=False,
        holder=ConcurrencyLeaseHolder(type="flow_run", id=UUID(str(runtime.flow_run.id))),
    ):
        yield
