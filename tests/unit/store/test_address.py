"""A secret in a store's address is refused, half an address is no folder; a damaged lease is waited out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.faults.object_store import object_store
from flows.cli.app import app
from ltxcore.store.blobs import SecretInAddress
from ltxcore.store.lease import writing
from ltxcore.store.workspace import StoreUnknown, Workspace

SECRET = "s3cr3t-key"


@pytest.mark.parametrize(
    "url", [f"s3://AKIA:{SECRET}@bucket/store", f"s3://{SECRET}@bucket", f"s3://bucket/store?secret={SECRET}"]
)
def test_a_secret_in_the_address_is_refused_and_repeated_nowhere(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    result = CliRunner().invoke(app, ["use-store", url, "--workspace", str(tmp_path)])
    assert result.exit_code == 2
    assert "write s3://bucket" in " ".join(result.output.split())
    with pytest.raises(SecretInAddress):
        Workspace(tmp_path).use_store(url)
    (tmp_path / "store.json").write_text(json.dumps({"url": url}))
    with pytest.raises(StoreUnknown) as by_hand:
        _ = Workspace(tmp_path).store
    assert SECRET not in result.output + caplog.text + str(by_hand.value)


@pytest.mark.parametrize(
    "url", [f"s3:/AKIA:{SECRET}@bucket", "s3:bucket/store", f"simplecache::s3://AKIA:{SECRET}@bucket"]
)
def test_half_an_address_becomes_no_folder(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["use-store", url, "--workspace", "workspace"])
    assert result.exit_code == 2
    assert "write one like s3://bucket/prefix" in " ".join(result.output.split())
    assert SECRET not in result.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or ":" in path.name]


def test_a_store_under_home_is_tried_where_it_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(app, ["use-store", "~/store", "--workspace", "workspace"])
    assert result.exit_code == 0, result.output
    assert Workspace(tmp_path / "workspace").store_url == str(tmp_path / "home/store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "workspace"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"holder": "x"}', b"\xff"])
def test_what_a_crash_left_of_a_lease_is_waited_out(tmp_path: Path, content: bytes) -> None:
    blobs = object_store(tmp_path)
    blobs.write("locks/latents/00000004.json", content)
    waited: list[str] = []
    with writing(blobs, "latents", "me", wait_s=30, on_wait=waited.append, lease_s=0.2):
        blobs.write("latents/x", b"1")
    assert waited == ["another process"]
    with writing(blobs, "latents", "the next", wait_s=30, lease_s=0.2):
        assert blobs.read("latents/x") == b"1"
