"""The clips that a dataset report plays, through the file server: those of its snapshot and nothing else."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from flows.file_server import application
from ltxcore.store.workspace import Workspace
from tests.unit.stages.test_snapshot_changes import sample, snapshot


def test_a_clip_of_a_snapshot_is_served_in_parts_and_no_other_file(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a b.mp4").write_bytes(bytes(range(100)))
    (clips / "secret.txt").write_text("secret")
    workspace = Workspace(tmp_path / "workspace")
    taken = sample("a b.mp4")
    found = snapshot([taken, sample("gone.mp4")]).model_copy(update={"roots": {taken.dataset: str(clips)}})
    workspace.save_snapshot(found)
    client = TestClient(application(workspace.root / "stages"))
    place = f"/clips/{found.id}/{taken.dataset}"
    whole = client.get(f"{place}/a%20b.mp4")
    assert (whole.status_code, whole.content) == (200, bytes(range(100)))
    part = client.get(f"{place}/a%20b.mp4", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    for wrong in (
        f"{place}/secret.txt",
        f"{place}/gone.mp4",
        f"{place}/..%2fsecret.txt",
        f"/clips/{'0' * 16}/{taken.dataset}/a%20b.mp4",
        f"/clips/latest/{taken.dataset}/secret.txt",
    ):
        assert client.get(wrong).status_code == 404, wrong
