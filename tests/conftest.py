"""What tests share, made once in a session: sample clips, a tiny model, an S3 server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import LocalServer
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.media.samples import make_samples
from ltxcore.models.files.source import ModelSource, prepare_model, resolve_model
from ltxcore.models.versions import VERSIONS
from tests.shared import empty_tracking_database, forget_training, made_once, session_directory


def pytest_configure() -> None:
    """One thread for each process, before torch is imported: several workers share the processors."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `made_once` keeps what the workers of this session share."""
    return session_directory(tmp_path_factory)


@pytest.fixture(scope="session")
def sample_clips(shared: Path) -> Path:
    """A directory with the sample clips, good and bad. Copy what a test wants to change."""
    return made_once(shared, "sample-clips", make_samples)


@pytest.fixture(scope="session")
def tiny_models(shared: Path) -> Path:
    """A models directory that holds the tiny model. Copy it for a workspace."""
    return made_once(shared, "models", lambda models: prepare_model(Recipe().model, models))


@pytest.fixture(scope="session")
def fresh_workspace(shared: Path, tiny_models: Path) -> Path:
    """A workspace to copy: the tiny model, and the databases of Prefect and MLflow, migrated and empty.

    Making each database costs seconds. test_embedded.py and test_serve.py begin without them, as users do.
    """

    def make(workspace: Path) -> None:
        shutil.copytree(tiny_models, workspace / "models")
        empty_tracking_database(workspace)
        with tempfile.TemporaryDirectory() as other, pytest.MonkeyPatch.context() as patch:
            patch.delenv("PREFECT_API_URL", raising=False)
            with LocalServer(other):
                pass
            (workspace / "prefect").mkdir(mode=0o700)
            with (
                contextlib.closing(sqlite3.connect(Path(other) / "prefect" / "prefect.db")) as source,
                contextlib.closing(sqlite3.connect(workspace / "prefect" / "prefect.db")) as copy,
            ):
                source.backup(copy)

    return made_once(shared, "fresh-workspace", make)


@pytest.fixture(scope="session")
def tinies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """A tiny model of each version in the diffusers layout. Copy what a test wants to change."""
    from ltxcore.models.tiny.model import write_tiny

    root = tmp_path_factory.mktemp("tinies")
    found = {}
    for version in VERSIONS:
        write_tiny(root / version, version)
        settings = ModelSettings(pretrained_model_name_or_path=str(root / version))
        found[version] = resolve_model(settings, root)
    return found


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine, a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the S3 server did not start") from None
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """For tests that train: each training of the test begins as the first one of its process.

    accelerate keeps one precision for the life of a process; a stage has one training, a test run many.
    """
    forget_training()
    yield
    forget_training()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; this process and its children reach its server by their environment."""
    import fsspec

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"test-{os.getpid()}-{time.time_ns()}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    return f"s3://{name}/store"
