"""Every command that answers something answers in JSON, and a workspace that is not there is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.store.workspace import Workspace
from tests.e2e.readme import ROOT

NEEDS = "explain report buckets push verify gc compact stage#split-audio stage#render-validation "
NEEDS += "models promote#sea#1 rollback#sea"


def ltx2(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", ["presets", "presets character", "keys training.lr_", "keys"])
def test_what_needs_no_workspace(command: str) -> None:
    assert json.loads(ltx2(*command.split()))


def test_what_is_imported(tmp_path: Path) -> None:
    seed = ROOT / "tests/unit/config/seed"
    (tmp_path / "datasets/videos").mkdir(parents=True)
    found = json.loads(
        ltx2(
            "import-simpletuner",
            str(seed / "lowest-vram.config.json"),
            str(seed / "video.multidatabackend.json"),
            *("--output", str(tmp_path)),
        )
    )
    verdicts = {line["key"]: line["verdict"] for line in found["keys"]}
    assert verdicts["learning_rate"] == "taken"
    assert [Path(file).exists() for file in found["written"]] == [True, True]


def test_what_looks_after_a_workspace(tmp_path: Path) -> None:
    Workspace(tmp_path).snapshots.mkdir()
    place = ["--workspace", str(tmp_path)]
    assert json.loads(ltx2("verify", *place))["whole"]
    assert json.loads(ltx2("gc", *place))["applied"] is False
    assert json.loads(ltx2("compact", *place))["segments"] == 0
    found = json.loads(CliRunner().invoke(app, ["doctor", *place, "--json"]).stdout)
    assert {"python", "disk"} <= {finding["subject"] for finding in found}


@pytest.mark.parametrize("command", NEEDS.split())
def test_a_mistyped_workspace_is_an_error(tmp_path: Path, command: str) -> None:
    place = tmp_path / "wrkspace"
    done = CliRunner().invoke(app, [*command.split("#"), "--workspace", str(place)])
    assert done.exit_code == 2
    assert f"there is no workspace at {place}" in done.output
    assert not place.exists()


def test_a_store_without_credentials_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    # Nobody listens there, and nobody is asked: what is missing is found before.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    # fsspec keeps connections, and those of a test before this one have its credentials.
    S3FileSystem.clear_instance_cache()
    words = ["use-store", "s3://bucket/prefix", "--workspace", str(tmp_path / "workspace")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "s3://bucket/prefix wants credentials" in done.output
    assert len(done.output.splitlines()) <= 3
