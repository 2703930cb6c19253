"""What `ltx2 explain` says of files that are not plain clips, and where the model is not here."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import yaml
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.config.recipe import Recipe
from ltxcore.jobs.explain.explain import explain_clip, explain_stages
from tests.stages.conftest import Bench
from tests.unit.media.files import picture, tone

CLIP = "clips/red-disc-right.mp4"
TEXT = {"id": "text", "dataset_type": "text_embeds"}


def write_sets(bench: Bench, *sets: dict[str, Any], **clips: Any) -> None:
    own = {
        "id": "clips", "dataset_type": "video", "instance_data_dir": "clips", "resolution": 64,
        "resolution_type": "pixel", "video": {"num_frames": 17}, **clips,
    }  # fmt: skip
    (bench.root / "datasets.yaml").write_text(yaml.safe_dump([own, *sets, TEXT]))


def test_a_clip_is_explained_without_the_model(bench: Bench) -> None:
    shutil.rmtree(bench.root / "workspace/models")
    assert explain_clip(bench.ctx, CLIP).verdict == "in"
    bench.look()
    report = explain_clip(bench.ctx, CLIP)
    assert (report.verdict, report.tracks) == ("in", [])
    assert report.work[0].startswith("encode-latents, embed-text: not known without the model: ")


def test_files_that_no_dataset_takes_are_rejected_and_not_gone(bench: Bench) -> None:
    picture(bench.clips / "poster.png")
    (bench.clips / "nobody.txt").write_text("a caption without a clip")
    for name, reason in (("poster.png", "is a picture, and"), ("nobody.txt", "is a caption, but no file")):
        assert explain_clip(bench.ctx, f"clips/{name}").verdict == "rejected", "before it is looked at"
        bench.look()
        for asked in (f"clips/{name}", str(bench.clips / name)):
            report = explain_clip(bench.ctx, asked)
            assert report.verdict == "rejected"
            assert report.reason.startswith(reason)
        (bench.clips / name).unlink()
        assert explain_clip(bench.ctx, f"clips/{name}").verdict == "gone"


def test_the_sound_of_a_clip_belongs_to_it(bench: Bench) -> None:
    (bench.root / "sounds").mkdir()
    for name in ("red-disc-right.wav", "nobody.wav"):
        tone(bench.root / "sounds" / name, 1.0)
    sounds = {"id": "sounds", "dataset_type": "audio", "instance_data_dir": "sounds"}
    write_sets(bench, sounds, s2v_datasets="sounds")
    bench.look()
    used = explain_clip(bench.ctx, "sounds/red-disc-right.wav")
    assert (used.verdict, used.reason) == ("in", f"belongs to {CLIP}")
    assert used.snapshots == [f"{bench.ctx.snapshot.id}: in, with {CLIP}"]
    assert explain_clip(bench.ctx, "sounds/nobody.wav").reason == "no accepted clip has this file's name"


def test_a_clip_with_a_reference_is_explained_with_it(bench: Bench) -> None:
    shutil.copytree(bench.clips, bench.root / "shown")
    shown = {
        "id": "shown", "dataset_type": "conditioning", "conditioning_type": "reference",
        "instance_data_dir": "shown",
    }  # fmt: skip
    write_sets(bench, shown, conditioning_data="shown")
    given = {"conditioning": {"video": {"conditions": [{"type": "reference"}]}}}
    bench.recipe = Recipe.model_validate({**bench.recipe.model_dump(exclude={"conditioning"}), **given})
    bench.look()
    report = explain_clip(bench.ctx, CLIP)
    assert report.verdict == "in"
    assert "encode-latents: reference latents, new: nothing was made of it before" in report.work
    assert not any(line.startswith("probe-media") for line in report.work)
    assert explain_clip(bench.ctx, "shown/red-disc-right.mp4").reason == f"belongs to {CLIP}"
    assert "embed-text" in {stage.stage for stage in explain_stages(bench.ctx)}


def test_a_clip_is_explained_in_words_and_its_hashes_by_json(bench: Bench) -> None:
    bench.look()
    root = bench.root
    words = [
        *("explain", "twin.mp4", "--workspace", str(root / "workspace")),
        *("--datasets", str(root / "datasets.yaml")),
    ]
    text = CliRunner().invoke(app, words).output
    key = re.compile(r"[0-9a-f]{40}")
    assert key.search(text) is None
    assert "pictures: " in text
    assert "frames at " in text
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert all(key.fullmatch(track["key"]) for track in found["keys"])
    stages = json.loads(CliRunner().invoke(app, [words[0], *words[2:], "--json"]).stdout)
    assert stages[0] == {"stage": "probe-media", "state": "stale", "why": ["first run"]}
