"""A workspace's server that keeps its runs in PostgreSQL; skipped where there is none."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from flows.database_url import DatabaseRefused, asked_database
from flows.environment import ASKED_DATABASE, prefect_home
from flows.guard.hosts import free_port
from flows.secret import authorization, find_secret
from flows.server import LocalServer

pytestmark = pytest.mark.e2e
SECRET: Final = "not-to-be-shown"


def find_program(name: str) -> str:
    """Debian keeps PostgreSQL's programs out of PATH."""
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    program = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *places]))
    if program is None:
        pytest.skip(f"needs PostgreSQL, and there is no {name}")
    return program


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Address of an empty database, on a cluster of our own."""
    initdb, server = find_program("initdb"), find_program("postgres")
    # PostgreSQL refuses to run as root.
    other: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as place:
        root = Path(place)
        (root / "password").write_text(SECRET)
        if other:
            for path in (root, root / "password"):
                shutil.chown(path, **other)
        port = free_port()
        options = ["--auth=scram-sha-256", f"--pwfile={root}/password", "--username=ltx2", "--no-sync"]
        made = [initdb, f"--pgdata={root}/data", *options]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/", **other)
        settings = [
            "listen_addresses=127.0.0.1",
            f"port={port}",
            f"unix_socket_directories={root}",
            "fsync=off",
        ]
        command = [server, "-D", f"{root}/data", *(word for pair in settings for word in ("-c", pair))]
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **other)
        try:
            asyncio.run(create_database(port))
            yield f"postgresql+asyncpg://ltx2:{SECRET}@127.0.0.1:{port}/prefect"
        finally:
            process.terminate()
            process.wait(300)


async def create_database(port: int) -> None:
    import asyncpg

    for _ in range(600):
        try:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=port, user="ltx2", password=SECRET, database="postgres"
            )
            break
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.1)
    await connection.execute("CREATE DATABASE prefect")
    await connection.close()


async def count_runs(address: str) -> int:
    import asyncpg

    connection = await asyncpg.connect(address.replace("+asyncpg", ""))
    count = await connection.fetchval("SELECT count(*) FROM flow_run")
    await connection.close()
    return int(count)


def test_the_runs_are_in_postgres_and_the_password_is_nowhere(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv(ASKED_DATABASE, postgres)
    with LocalServer(tmp_path, own=True, database=asked_database()) as server:
        headers = {"Authorization": authorization(find_secret(prefect_home(tmp_path)) or "")}
        with httpx.Client(base_url=server.url, headers=headers, timeout=300, trust_env=False) as client:
            token = client.get("/csrf-token", params={"client": "test"}).json()["token"]
            client.headers.update({"Prefect-Csrf-Client": "test", "Prefect-Csrf-Token": token})
            flow = client.post("/flows/", json={"name": "one"}).json()["id"]
            client.post("/flow_runs/", json={"flow_id": flow}).raise_for_status()
            settings = client.get("/admin/settings")
            settings.raise_for_status()
        assert asyncio.run(count_runs(postgres)) == 1
        assert not (prefect_home(tmp_path) / "prefect.db").exists()
        assert SECRET not in settings.text
        assert not [
            p for p in psutil.process_iter(["cmdline"]) if SECRET in " ".join(p.info["cmdline"] or [])
        ]
        # What children of ours are given.
        assert SECRET not in "".join([*server.environment.values(), *os.environ.values()])
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [(SECRET, "wrong", "Look at user and password"), ("/prefect", "/other", "Make it: createdb")],
)
def test_a_database_that_lets_nobody_in_is_reported(
    old: str, new: str, message: str, postgres: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(DatabaseRefused, match=message),
        LocalServer(tmp_path, own=True, database=postgres.replace(old, new)),
    ):
        pytest.fail("the server came up")
