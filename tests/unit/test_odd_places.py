"""A workspace whose path looks like a URL: everything stays inside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.config.tracking_settings import TrackingSettings
from ltxcore.store.blobs import Blobs, is_url
from ltxcore.store.workspace import Workspace
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of

ODD = ("a::b", "a?b=c", "%41", "a#b", "with space", "memory:x", "ä")


@pytest.fixture(params=ODD)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_the_store_lies_in_its_directory(place: Path, tmp_path: Path) -> None:
    for blobs in (Blobs(place), Workspace(place).store):
        blobs.write("audio/x", b"sound")
        assert blobs.read("audio/x") == b"sound"
        assert set(blobs.walk("")) == {"audio/x"}
        assert blobs.local is not None
        assert blobs.local.is_relative_to(place)
    workspace = Workspace(place)
    workspace.use_store(str(place / "elsewhere?x"))
    workspace.store.write("y", b"1")
    assert (place / "elsewhere?x" / "y").read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [place]


def test_mlflow_keeps_its_database_and_artifacts_there(
    place: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    place.mkdir()
    file = place / "lora.safetensors"
    file.write_bytes(b"lora")
    run = MlflowRun(
        tracking_of(TrackingSettings(), place / "mlflow"), "experiment", "run", place / "run.json"
    )
    sent = run.begin()
    assert sent.error is None
    assert run.log_artifacts([file]).error is None
    assert (place / "mlflow" / "mlflow.db").stat().st_size
    assert [kept.read_bytes() for kept in (place / "mlflow" / "artifacts").rglob("*.safetensors")] == [
        b"lora"
    ]
    assert list(tmp_path.iterdir()) == [place]
    assert list(here.iterdir()) == []


def test_a_url_is_a_scheme_and_two_slashes() -> None:
    assert is_url("s3://bucket/x")
    assert is_url("gs+x.y-z://b")
    assert not any(is_url(text) for text in ("memory:x", "a::s3", "/a//b", "C:/x", "dir::file", "x ://y"))
