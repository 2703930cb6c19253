"""What a stage is asked for stays what it was: a workspace made before is found up to date after a change.

The fingerprints in `recorded_requests.json` were written before the code was moved. Where one has to change,
as it does with a new version of a stage, write them again:
`python -m tests.unit.stages.test_recorded_requests`.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.execution.execution import find_result
from ltxcore.execution.stage_code import code_of
from ltxcore.models.files.source import ModelSource, prepare_model
from ltxcore.models.teacher import TeacherSource, prepare_teacher
from ltxcore.pipeline.base.context import context_here
from ltxcore.pipeline.base.contract import PROBE, TRAIN, asked_stages
from ltxcore.pipeline.base.stamp import Outcome, request_fingerprint, write_stamp
from ltxcore.store.fingerprint import FileIdentity, fingerprint
from ltxcore.store.snapshot import (
    ConditioningClip,
    FrameSelection,
    Geometry,
    Sample,
    Snapshot,
    SoundFile,
    SoundSelection,
)
from ltxcore.store.workspace import Workspace

RECORD = Path(__file__).with_name("recorded_requests.json")
TINY = Path(__file__).parents[3] / "deploy/recipes/tiny.yaml"
DATASETS = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 17}
- id: text
  dataset_type: text_embeds
"""
CREPA = {
    "crepa_enabled": True,
    "crepa_encoder": "tiny",
    "crepa_block_index": 1,
    "crepa_encoder_image_size": 28,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {},
    "techniques": {
        "crepa": CREPA,
        "evaluation": {"eval_share": 0.5, "early_stop_patience": 2, "export": "best"},
        "scheduled_sampling": {"scheduled_sampling_max_step_offset": 3},
        "tread": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 0, "end_layer_idx": 0}]},
        "training": {"use_ema": True, "num_train_epochs": 2, "max_train_steps": 0, "lr_warmup_steps": 0},
    },
    "conditioned": {
        "conditioning": {"video": {"conditions": [{"type": "first_frame"}]}},
        "lora": {"trigger": "glimmer"},
        "validation": {"validation_using_datasets": True, "validation_step_interval": 5},
    },
    "open": {
        "memory": {"vram_gib": 24, "ram_gib": 16},
        "model": {"base_model_precision": "auto", "text_encoder_1_precision": "int8-quanto"},
        "training": {"train_batch_size": "auto", "gradient_accumulation_steps": 2},
        "encode": {"vae_enable_tiling": True},
    },
}
"""What each recipe changes in the tiny one, section by section."""


def _frames(count: int, fps: float = 24.0) -> FrameSelection:
    return FrameSelection(indices=tuple(range(count)), fps=fps, start_s=0.0)


def _geometry(width: int, height: int) -> Geometry:
    return Geometry(source=(96, 64), resize=(width, height), crop_xy=(0, 0), target=(width, height))


def _sample(name: str, count: int = 17, **more: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": f"clips/{name}",
        "dataset": "clips",
        "path": name,
        "media_id": fingerprint(name),
        "captions": (f"What {name} shows.",),
        "frames": _frames(count),
        "geometry": _geometry(96, 64),
        "audio": SoundSelection(start_s=0.0, duration_s=count / 24, channels=2, layout="stereo", tracks=(0,)),
        "source_fps": 24.0,
        "source_duration_s": 2.0,
    }
    return Sample(**{**fields, **more})


def _snapshot(root: Path) -> Snapshot:
    reference = ConditioningClip(
        purpose="reference",
        id="references/one.mp4",
        dataset="references",
        kind="video",
        path="one.mp4",
        media_id=fingerprint("reference"),
        frames=_frames(17),
        geometry=_geometry(96, 64),
    )
    music = SoundFile(dataset="music", path="two.wav", media_id=fingerprint("music"))
    sound = SoundSelection(
        start_s=0.25, duration_s=17 / 24, channels=1, layout="mono", tracks=(0,), sound=music
    )
    samples = (
        _sample("one.mp4", reference=reference),
        _sample("two.mp4", audio=sound, trigger="sparkle"),
        _sample("silent.mp4", audio=None, visits=3, probability=0.5),
        _sample("long.mp4", 33, captions=("One caption.", "Another.")),
        _sample("still.png", 1, kind="image", audio=None, regularisation=True),
    )
    roots = {name: str(root / name) for name in ("clips", "references", "music")}
    return Snapshot(roots=roots, samples=samples, rejections=(), wants_audio=True, fps=(24.0,))


def _models(models: Path) -> None:
    """The tiny model and the tiny teacher; what their weights are is told by their names."""
    prepare_model(Recipe().model, models)
    prepare_teacher(_recipe("techniques").crepa, models)


def _recipe(name: str) -> Recipe:
    data = load_recipe(TINY).model_dump(mode="json")
    for section, values in RECIPES[name].items():
        data[section] |= values
    return Recipe.model_validate(data)


def _fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on any machine: weights are told by their name, and files by the length of theirs."""
    monkeypatch.setattr(ModelSource, "_content_fingerprint", lambda self, name: fingerprint(f"tiny {name}"))
    monkeypatch.setattr(TeacherSource, "fingerprint", lambda self: fingerprint("tiny teacher"))
    monkeypatch.setattr(FileIdentity, "of", lambda path: FileIdentity(len(path.name), 1, 2))


def _requests(root: Path, name: str) -> dict[str, str]:
    """Stage -> fingerprint of what it is asked for, of the names of what it needs, and of its version."""
    (root / "clips").mkdir(parents=True)
    for file in ("one.mp4", "one.txt", "two.mp4", "notes.pdf"):
        (root / "clips" / file).write_bytes(b"")
    (root / "datasets.yaml").write_text(DATASETS)
    workspace, snapshot = Workspace(root / "workspace"), _snapshot(root)
    workspace.save_snapshot(snapshot)
    ctx = context_here(workspace, _recipe(name), root / "datasets.yaml", snapshot.id)
    found = {}
    for stage in asked_stages(ctx.recipe):
        request, _ = find_result(stage, ctx)
        if stage is PROBE:
            request["roots"] = {key: Path(path).name for key, path in request["roots"].items()}
        needed = {part: sorted(keys) for part, keys in code_of(stage).request.needs(ctx).items()}
        found[stage.name] = fingerprint([request_fingerprint(stage, request), request, needed])
        if stage is TRAIN:
            outcome = Outcome(counts={"steps": 1}, facts={})
            write_stamp(workspace, stage, request, outcome, time.time(), 0)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    _models(models)
    return models


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_is_asked_for_what_it_was_asked_for_before(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "models").symlink_to(models)
    _fixed(monkeypatch)
    recorded, found = json.loads(RECORD.read_text())[name], _requests(tmp_path, name)
    # A stage that is new has nothing recorded.
    assert {stage: found.get(stage) for stage in recorded} == recorded


def main() -> None:
    """Write the record again."""
    record = {}
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        models = Path(made) / "models"
        _models(models)
        _fixed(patch)
        for name in RECIPES:
            root = Path(made) / name
            (root / "workspace").mkdir(parents=True)
            (root / "workspace" / "models").symlink_to(models)
            record[name] = _requests(root, name)
    RECORD.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
