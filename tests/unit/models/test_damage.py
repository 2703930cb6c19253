"""Model files whose bytes changed under their size and times, as bit rot does: `ltx2 verify` names them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.models.files.combined import COMBINED_COMPONENTS, open_combined
from ltxcore.models.files.damage import check_models
from ltxcore.models.files.hashes import FINGERPRINTS, remembered_hashes, remembered_part
from ltxcore.models.files.quantised_files import keep
from ltxcore.models.files.source import stored_parts
from ltxcore.store.fingerprint import FileIdentity


def rot(file: Path, models: Path) -> None:
    """Flip a bit of a file, and let its times be those that are remembered."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    hashes = json.loads((models / FINGERPRINTS).read_text())
    for key in hashes:
        if key.partition("#")[0] == str(file):
            hashes[key]["identity"] = asdict(FileIdentity.of(file))
    (models / FINGERPRINTS).write_text(json.dumps(hashes))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A workspace's models: weights that were hashed, and quantised ones that were kept."""
    folder = tmp_path / "workspace/models"
    folder.mkdir(parents=True)
    (tmp_path / "workspace/runs").mkdir()
    weights = tmp_path / "downloaded.safetensors"
    weights.write_bytes(b"weights")
    remembered_hashes([weights], folder)
    keep(torch.nn.Linear(4, 2), folder / "quantised/transformer-0.safetensors")
    return folder


def verify(models: Path, *more: str) -> tuple[int, str]:
    told = CliRunner().invoke(app, ["verify", *more, "--workspace", str(models.parent)])
    return told.exit_code, told.output.replace("\n", " ")


def test_damaged_model_files_are_named_and_what_can_be_made_again_is_set_aside(models: Path) -> None:
    assert verify(models)[0] == 0
    assert check_models(models).checked == 2
    quantised, downloaded = (
        models / "quantised/transformer-0.safetensors",
        models.parents[1] / "downloaded.safetensors",
    )
    rot(quantised, models)
    status, told = verify(models)
    assert status == 1
    assert f"{quantised} is not what was written" in told
    assert verify(models, "--repair")[0] == 0
    assert not quantised.exists()
    assert verify(models)[0] == 0
    rot(downloaded, models)
    status, told = verify(models, "--repair")
    assert status == 1
    assert f"{downloaded} is not what was written" in told
    assert "download" in told
    assert downloaded.exists(), "what was downloaded is left to its owner"
    # Another file under its name is no damage.
    downloaded.write_bytes(b"other weights")
    assert verify(models)[0] == 0


def test_the_damaged_part_of_a_combined_file_is_named(models: Path, combined: Path, tmp_path: Path) -> None:
    file = tmp_path / "combined.safetensors"
    shutil.copy2(combined / "2.0-bf16.safetensors", file)
    for part in COMBINED_COMPONENTS:
        remembered_part(file, part, stored_parts(open_combined(file).weights(part)), models)
    assert check_models(models).faults == []
    rot(file, models)
    (fault,) = check_models(models).faults
    assert any(str(fault) == f"{file} is not what was written ({part})" for part in COMBINED_COMPONENTS)


def test_damaged_hashes_are_named_and_set_aside(models: Path) -> None:
    (models / FINGERPRINTS).write_text('{"')
    status, told = verify(models)
    assert status == 1
    assert f"{models / FINGERPRINTS} cannot be read" in told
    assert verify(models, "--repair")[0] == 0
    assert not (models / FINGERPRINTS).exists()
