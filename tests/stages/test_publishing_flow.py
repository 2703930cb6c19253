"""The tasks that publish, in a flow on a real Prefect server: retries, where the token is, the last words."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import LocalServer
from ltxcore.jobs.publish.finished_run import open_run
from ltxcore.publishing.errors import HubRefused
from tasks import hub as tasks
from tests.hub_server import FakeHub
from tests.published_run import FinishedRun

COMMIT = "POST /api/models/.*/commit/"
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, fresh_workspace: Path) -> Iterator[LocalServer]:
    workspace = tmp_path_factory.mktemp("served") / "workspace"
    shutil.copytree(fresh_workspace, workspace)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        with LocalServer(workspace) as running:
            yield running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (tasks.check_hub, tasks.push):
        monkeypatch.setattr(task, "retry_delay_seconds", 0)


def publish(made: FinishedRun) -> None:
    from tests.stages.publishing_flow import publishing

    publishing(*open_run(made.workspace))


def artifact() -> str:
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["hub"])))
        return str(max(found, key=lambda a: a.created).data)


def database_with(server: LocalServer, *words: str) -> str:
    """All of Prefect's database, once it holds these words: logs arrive a little later."""
    deadline = time.monotonic() + 300
    while True:
        with sqlite3.connect(server.workspace / "prefect" / "prefect.db") as database:
            written = "\n".join(database.iterdump())
        if all(word in written for word in words):
            return written
        assert time.monotonic() < deadline, [word for word in words if word not in written]
        time.sleep(0.2)


def test_a_hub_that_stumbles_is_asked_again(
    server: LocalServer, tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    hub.fail("GET /api/whoami", 500, times=2)
    hub.fail(COMMIT, 500, times=2)
    made = FinishedRun(tmp_path)
    publish(made)
    assert hub.count(COMMIT) == 3
    repo = hub.repositories["me/my-lora"]
    assert len(repo.commits) == 2
    assert f"/me/my-lora/commit/{repo.sha}" in artifact()


def test_an_upload_that_fails_says_where_the_lora_lies(
    server: LocalServer, tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    made = FinishedRun(tmp_path)
    hub.fail(COMMIT, 503, times=99)
    with pytest.raises(tasks.UploadFailed) as caught:
        publish(made)
    assert hub.count(COMMIT) == 4
    assert "503" in str(caught.value)
    lora = next(made.workspace.stages.rglob("lora"))
    assert f"It lies in {lora}. Running again does nothing but the upload" in str(caught.value)
    hub.faults.clear()
    publish(made)
    assert len(hub.repositories["me/my-lora"].commits) == 2


def test_a_right_that_is_lost_meanwhile_is_not_tried_again(
    server: LocalServer, tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    hub.fail(COMMIT, 403, times=99)
    with pytest.raises(tasks.UploadFailed, match="the token may not do that"):
        publish(FinishedRun(tmp_path))
    assert hub.count(COMMIT) == 1


def test_a_run_without_token_ends_before_it_begins(
    server: LocalServer, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubRefused, match="there is no token of the hub"):
        publish(FinishedRun(tmp_path))
    assert hub.requests == []


def test_the_token_may_be_a_secret_block_and_is_nowhere_written_down(
    server: LocalServer,
    tmp_path: Path,
    hub: FakeHub,
    tags: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from prefect.blocks.system import Secret

    from flows.hub_token import token_here

    monkeypatch.delenv("HF_TOKEN")
    assert token_here(server.workspace) is None
    Secret(value=hub.token).save("hf-token", overwrite=True)
    try:
        assert token_here(server.workspace) == hub.token
        made = FinishedRun(tmp_path)
        publish(made)
        hub.fail(COMMIT, 403, message=f"no right for {hub.token}")
        made.train(2.0)
        with pytest.raises(tasks.UploadFailed):
            publish(made)
    finally:
        Secret.delete("hf-token")
    assert len(hub.repositories["me/my-lora"].commits) == 2
    assert hub.token not in caplog.text
    # The block itself is encrypted in it.
    assert hub.token not in database_with(server, "The LoRA will go to me/my-lora", "403 no right for ***")
    assert hub.token.encode() not in b"".join(f.read_bytes() for f in made.run.rglob("*") if f.is_file())
