"""The recipe of every mode in deploy/recipes: it loads, and trains the tiny model on data of its kind."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.jobs.explain.explain import explain_clip
from ltxcore.models.files.loading import load_connectors, load_transformer, load_video_vae
from ltxcore.pipeline.data.prompts import validation_prompts
from ltxcore.pipeline.data.rendering_size import settings_of_clips
from ltxcore.pipeline.data.tokens import reference_tokens, video_tokens
from ltxcore.pipeline.plan.transformer_plan import workload_of
from ltxcore.stages.render_validation.given_clips import GivenClips
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.stored_samples import StoredSamples
from ltxcore.store.snapshot import Sample
from ltxcore.training.adapters import take_adapter
from ltxcore.training.export import Lineage, export_lora
from ltxcore.training.loop import train
from ltxcore.training.lora import lora_parameters
from ltxcore.training.metrics import METRICS_FILE, StepMetrics, read_metrics
from tests.shared import forget_training
from tests.stages.conftest import TINY, Bench
from tests.unit.media.clips import ffmpeg
from tests.unit.media.files import caption, tone

RECIPES = TINY.parent
FRAMES = 121
LATENT_FRAMES = 16
CLIPS: dict[str, Any] = {
    "id": "clips",
    "dataset_type": "video",
    "instance_data_dir": "clips",
    "resolution": 64,
    "resolution_type": "pixel",
    "aspect_bucket_alignment": 64,
    "video": {"num_frames": FRAMES},
}
REFERENCES = {
    "id": "references",
    "dataset_type": "conditioning",
    "conditioning_type": "reference",
    "instance_data_dir": "references",
    "reference_downscale_factor": 2,
    "reference_temporal_scale_factor": 2,
}
EDGES = {
    "id": "edges",
    "dataset_type": "conditioning",
    "conditioning_type": "reference",
    "instance_data_dir": "clips",
}
MASKS = {
    "id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask", "instance_data_dir": "masks"
}  # fmt: skip
LOSS_MASKS = {**MASKS, "id": "loss-masks", "conditioning_type": "loss_mask"}
VOICES = {
    "id": "voices",
    "dataset_type": "conditioning",
    "conditioning_type": "reference_audio",
    "instance_data_dir": "voices",
    "reference_seconds": 2,
}
SOUNDS = {
    "id": "sounds", "dataset_type": "audio", "instance_data_dir": "sounds", "audio": {"audio_only": True}
}  # fmt: skip
TEXT = {"id": "text", "dataset_type": "text_embeds"}


@dataclass(frozen=True)
class Mode:
    """What a recipe is trained on, and what that moves."""

    recipe: str
    sets: tuple[dict[str, Any], ...] = (CLIPS,)
    video: bool = True
    audio: bool = True
    moves: tuple[str, ...] = ("attn1.to_q", "audio_attn1.to_q", "audio_ff.net.2")
    leaves: tuple[str, ...] = ()


MODES = (
    Mode("text-to-video"),
    Mode("image-to-video"),
    Mode("extend-forwards"),
    Mode("extend-backwards"),
    Mode("keyframes"),
    Mode("outpainting"),
    Mode("masked-loss", ({**CLIPS, "conditioning_data": "loss-masks"}, LOSS_MASKS)),
    Mode("inpainting", ({**CLIPS, "conditioning_data": "masks"}, MASKS)),
    Mode("ic-lora", ({**CLIPS, "conditioning_data": "references"}, REFERENCES)),
    Mode("ic-lora-several", ({**CLIPS, "conditioning_data": ["edges", "references"]}, REFERENCES, EDGES)),
    Mode("voice-reference", ({**CLIPS, "conditioning_data": "voices"}, VOICES)),
    Mode(
        "audio-to-video",
        audio=False,
        moves=("attn1.to_q", "attn2.to_out.0", "audio_to_video_attn.to_k"),
        leaves=("audio_attn1.to_q", "audio_ff.net.2", "video_to_audio_attn.to_q"),
    ),
    Mode(
        "video-to-audio",
        video=False,
        moves=("audio_attn1.to_q", "audio_ff.net.2", "video_to_audio_attn.to_k"),
        leaves=("attn1.to_q", "audio_to_video_attn.to_q"),
    ),
    Mode(
        "text-to-audio",
        (SOUNDS,),
        video=False,
        moves=("audio_attn1.to_q", "audio_ff.net.2"),
        leaves=("attn1.to_q", "video_to_audio_attn.to_q"),
    ),
)


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Bench:
    """Two clips of the recipes' own length with sound, references, masks, and a sound alone."""
    root = tmp_path_factory.mktemp("modes")
    for name in ("clips", "references", "masks", "sounds", "voices"):
        (root / name).mkdir()
    for stem, hertz in (("one", 300), ("two", 500)):
        clip(root / "clips" / f"{stem}.mp4", "64x64", hertz)
        caption(root / "clips" / f"{stem}.mp4")
        clip(root / "references" / f"{stem}.mkv", "128x128")
    right_half(root / "masks" / "one.mkv", frames=FRAMES)
    right_half(root / "masks" / "two.png", frames=1)
    caption(tone(root / "sounds" / "hum.wav", 3.0))
    tone(root / "voices" / "one.wav", 3.0)
    clip(root / "voices" / "two.mp4", "64x64", 800)
    shutil.copytree(tiny_models, root / "workspace" / "models")
    return Bench(root, load_recipe(TINY))


def clip(path: Path, size: str, hertz: int | None = None) -> None:
    sound = [] if hertz is None else ["-f", "lavfi", "-i", f"sine=f={hertz}:d={FRAMES / 25}"]
    ffmpeg(
        "-f", "lavfi", "-i", f"testsrc=s={size}:r=25:d={FRAMES / 25}", *sound, "-c:v", "libx264", "-preset",
        "ultrafast", "-pix_fmt", "yuv420p", f"file:{path}",
    )  # fmt: skip


def right_half(path: Path, frames: int) -> None:
    """Black, and white on the right."""
    ffmpeg(
        "-f", "lavfi", "-i", "color=black:s=64x64:r=25,format=rgb24,drawbox=x=32:w=32:h=64:c=white:t=fill",
        "-frames:v", str(frames), f"file:{path}",
    )  # fmt: skip


def adapted(name: str, bench: Bench, sets: tuple[dict[str, Any], ...], probability: float | None) -> Bench:
    """A recipe of deploy/recipes with the tiny model in its place, on some of the datasets."""
    (bench.root / "datasets.yaml").write_text(yaml.safe_dump([*sets, TEXT]))
    tiny, found = load_recipe(TINY), load_recipe(RECIPES / f"{name}.yaml")
    training = found.training.model_copy(
        update={
            "max_train_steps": 2,
            "lr_warmup_steps": 0,
            "mixed_precision": "no",
            "train_batch_size": 2,
            "allow_small_buckets": True,
        }
    )
    data = found.model_copy(
        update={"model": tiny.model, "encode": tiny.encode, "memory": tiny.memory, "training": training}
    ).model_dump()
    if probability is not None:
        for modality in ("video", "audio"):
            for condition in data["conditioning"][modality]["conditions"]:
                condition["probability"] = probability
    return Bench(bench.root, Recipe.model_validate(data))


def trained(bench: Bench, directory: Path) -> tuple[set[str], list[StepMetrics], Any]:
    """The modules whose LoRA moved in two steps, those steps, and the transformer."""
    forget_training()
    ctx = bench.ctx
    transformer = load_transformer(ctx.source, torch.float32, "cpu")
    train(
        transformer,
        load_connectors(ctx.source, torch.float32, "cpu"),
        StoredSamples(ctx),
        ctx.recipe,
        directory,
        run_fingerprint="test",
        max_tokens=ctx.source.text_max_tokens,
    )
    weights = lora_parameters(transformer)
    moved = {name.split(".lora_")[0] for name, w in weights.items() if "lora_B" in name and w.any()}
    still = {name.split(".lora_")[0] for name in weights} - moved
    assert not still, "a default target that no loss reaches"
    return moved, read_metrics(directory / METRICS_FILE), transformer


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.recipe)
def test_every_mode_trains_what_it_generates(mode: Mode, modes: Bench, tmp_path: Path) -> None:
    bench = adapted(mode.recipe, modes, mode.sets, probability=1.0)
    bench.prepare()
    moved, steps, transformer = trained(bench, tmp_path)
    assert len(steps) == 2
    for step in steps:
        assert (step.video_loss is not None, step.audio_loss is not None) == (mode.video, mode.audio)
        bands = {name.split("_loss_")[0] for name in step.measures if "_loss_" in name}
        assert bands == {name for name in ("video", "audio") if getattr(mode, name)}
    for suffix in mode.moves:
        assert any(name.endswith(f".{suffix}") for name in moved), suffix
    for suffix in mode.leaves:
        assert not any(name.endswith(f".{suffix}") for name in moved), suffix
    source = StoredSamples(bench.ctx)
    lineage = Lineage("base", "snapshot", bench.recipe, reference_factors=source.reference_factors)
    adapter = take_adapter(transformer, lora_parameters(transformer))
    for file in export_lora(tmp_path, "lora", adapter, lineage):
        with safe_open(file, "pt") as tensors:
            header = tensors.metadata()
        expected = {"ic-lora": ("2", None), "ic-lora-several": (None, "[1, 2]")}.get(
            mode.recipe, (None, None)
        )
        for key in ("reference_downscale_factor", "reference_temporal_scale_factor"):
            assert (header.get(key), header.get(f"{key}s")) == expected


def test_every_recipe_of_a_mode_is_described_and_tested() -> None:
    page = (RECIPES.parents[1] / "docs/conditioning.md").read_text()
    assert set(re.findall(r"deploy/recipes/([\w-]+)\.yaml", page)) == {mode.recipe for mode in MODES}


def test_references_and_masks_go_through_the_store(modes: Bench) -> None:
    linked = {**CLIPS, "conditioning_data": ["references", "masks"]}
    bench = adapted("ic-lora", modes, (linked, REFERENCES, MASKS), probability=None)
    video = {"conditions": [{"type": "reference"}, {"type": "mask"}]}
    both = Recipe.model_validate({**bench.recipe.model_dump(), "conditioning": {"video": video}})
    bench = Bench(bench.root, both)
    bench.prepare()
    source = StoredSamples(bench.ctx)
    for entry in source.entries():
        assert entry.bucket == "64x64@121+32x32@57", "61 frames of half the rate, rounded down to 8n+1"
        sample = source.load(entry.sample_id, None)
        (reference,) = sample.references
        assert sample.mask is not None
        assert reference.latents.shape == (16, 8, 1, 1)
        assert (reference.spatial_factor, reference.temporal_factor) == (2, 2)
        right = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
        assert np.array_equal(sample.mask.float().numpy(), np.broadcast_to(right, (LATENT_FRAMES, 2, 2)))
    again = bench.encode()
    assert sum(again.values()) == 0, "what is committed is not made again"


def test_loss_masks_weigh_the_loss_and_share_their_measure_with_masks(modes: Bench) -> None:
    linked = {**CLIPS, "conditioning_data": ["masks", "loss-masks"]}
    bench = adapted("inpainting", modes, (linked, MASKS, LOSS_MASKS), probability=None)
    bench.prepare()
    plain = adapted("inpainting", modes, ({**CLIPS, "conditioning_data": "masks"}, MASKS), probability=None)
    plain.probe()
    assert plain.encode() == {"video": 0, "audio": 0}, "the same files, measured already"
    assert "loss_mask_probability" not in train_lora_request(plain.ctx)["training"]
    bench = adapted("inpainting", modes, (linked, MASKS, LOSS_MASKS), probability=None)
    bench.probe()
    assert train_lora_request(bench.ctx)["training"]["loss_mask_probability"] == 1.0
    sample = StoredSamples(bench.ctx).load("clips/one.mp4", None)
    right = np.broadcast_to(np.array([[0.0, 1.0], [0.0, 1.0]], np.float32), (LATENT_FRAMES, 2, 2))
    assert sample.loss_mask is not None
    assert np.array_equal(sample.loss_mask.float().numpy(), right)
    tracks = explain_clip(bench.ctx, "clips/one.mp4").tracks
    assert "loss masks" in {track.what for track in tracks}


def test_a_changed_mask_alone_is_measured_again(modes: Bench, tmp_path: Path) -> None:
    linked = {**CLIPS, "conditioning_data": "masks"}
    bench = adapted("inpainting", modes, (linked, MASKS), probability=None)
    bench.prepare()
    clip_report, mask_report = (explain_clip(bench.ctx, name) for name in ("clips/two.mp4", "masks/two.png"))
    assert (clip_report.verdict, clip_report.work) == ("in", []), "with what belongs to it"
    assert (mask_report.verdict, mask_report.reason) == ("in", "belongs to clips/two.mp4")
    assert [track.what for track in mask_report.tracks] == ["masks"]
    assert f"{bench.ctx.snapshot.id}: in, with clips/two.mp4" in mask_report.snapshots
    mask = bench.root / "masks" / "two.png"
    kept = tmp_path / "two.png"
    shutil.copy2(mask, kept)
    try:
        ffmpeg("-f", "lavfi", "-i", "color=white:s=64x64", "-frames:v", "1", f"file:{mask}")
        looked, encoded = explain_clip(bench.ctx, "masks/two.png").work
        assert looked == "probe-media: the file is new, or was changed"
        assert encoded.startswith("encode-latents: masks, ")
        assert explain_clip(bench.ctx, "clips/two.mp4").work[-1] == encoded
        bench.probe()
        assert bench.encode() == {"video": 0, "audio": 0, "mask": 1}
        sample = StoredSamples(bench.ctx).load("clips/two.mp4", None)
        assert sample.mask is not None
        assert sample.mask.min() == 1
    finally:
        shutil.copy2(kept, mask)


def reasons(bench: Bench) -> dict[str, str]:
    snapshot, _ = bench.probe()
    return {rejection.id: rejection.reason for rejection in snapshot.rejections}


def test_a_clip_without_its_reference_is_rejected_with_the_reason(modes: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "references"
    folder.mkdir()
    shutil.copy2(modes.root / "references" / "one.mkv", folder / "one.mkv")
    shutil.copy2(modes.root / "references" / "one.mkv", folder / "nobody.mkv")
    sets = ({**CLIPS, "conditioning_data": "references"}, {**REFERENCES, "instance_data_dir": str(folder)})
    bench = adapted("ic-lora", modes, sets, probability=None)
    assert reasons(bench) == {
        "clips/two.mp4": "has no reference in references: expected two.* there",
        "references/nobody.mkv": "no accepted clip has this file's name",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("wide", "another shape than the clip's 64x64"),
        ("short", "is too short"),
        ("twice", "has more than one reference"),
        ("text", "not a video"),
    ],
)
def test_a_reference_that_does_not_fit_rejects_its_clip(
    modes: Bench, tmp_path: Path, wrong: str, message: str
) -> None:
    folder = tmp_path / "references"
    shutil.copytree(modes.root / "references", folder)
    if wrong == "wide":
        clip(folder / "two.mkv", "128x96")
    elif wrong == "short":
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64:r=25:d=1", f"file:{folder / 'two.mkv'}")
    elif wrong == "twice":
        shutil.copy2(folder / "two.mkv", folder / "two.mov")
    else:
        (folder / "two.mkv").write_text("this is no video")
    sets = ({**CLIPS, "conditioning_data": "references"}, {**REFERENCES, "instance_data_dir": str(folder)})
    found = reasons(adapted("ic-lora", modes, sets, probability=None))
    assert any(message in reason for reason in found.values()), found
    assert "clips/two.mp4" in found
    assert "clips/one.mp4" not in found


def test_a_recipe_that_the_data_cannot_follow_is_refused_before_anything_is_read(modes: Bench) -> None:
    bench = adapted("audio-to-video", modes, ({**CLIPS, "audio": {"auto_split": False}},), probability=None)
    with pytest.raises(ConfigError, match=r"conditioning\.audio\.mode: is frozen, but no dataset has sound"):
        bench.probe()


def test_tokens_of_a_reference_are_in_the_plan(modes: Bench) -> None:
    bench = adapted("ic-lora", modes, ({**CLIPS, "conditioning_data": "references"}, REFERENCES), None)
    snapshot, _ = bench.probe()
    sample: Sample = snapshot.samples[0]
    assert (reference_tokens(sample), video_tokens(sample)) == (8, LATENT_FRAMES * 4 + 8)
    workload = workload_of(bench.ctx)
    assert workload.tokens.video == LATENT_FRAMES * 4 + 8
    assert workload.per_token_times


@pytest.mark.parametrize(
    ("mode", "pictures", "sound", "reference"),
    [
        ("text-to-video", 0, 121, False),
        ("image-to-video", 4, 0, False),
        ("keyframes", 4, 0, True),
        ("audio-to-video", 0, 121, False),
        ("video-to-audio", 64, 0, False),
        ("inpainting", 32, 0, False),
        ("ic-lora", 4, 0, True),
    ],
)
def test_renderings_are_given_what_the_training_gives(
    modes: Bench, mode: str, pictures: int, sound: int, reference: bool
) -> None:
    """The seed's S2V where the recipe gives nothing: the clip's sound."""
    sets = next(m for m in MODES if m.recipe == mode).sets
    bench = adapted(mode, modes, sets, probability=None)
    validation = {"validation_using_datasets": True, "eval_dataset_id": "clips", "validation_frame_rate": 12}
    recipe = Recipe.model_validate({**bench.recipe.model_dump(), "validation": validation})
    bench = Bench(bench.root, recipe)
    bench.prepare()
    ctx = bench.ctx
    assert validation_prompts(recipe, ctx.snapshot) == {"one": "a caption of one", "two": "a caption of two"}
    (plan,) = settings_of_clips(ctx)
    assert (plan.width, plan.height, plan.num_frames, plan.fps) == (64, 64, FRAMES, 25)
    clips = GivenClips(ctx)
    held = clips.of("one", load_video_vae(ctx.source, torch.float32, "cpu"))
    assert held is not None
    assert (0 if held.video is None else int(held.video.given.sum())) == pictures
    assert (0 if held.audio is None else int(held.audio.given.sum())) == sound
    assert bool(held.references) is reference
    assert clips.of("a prompt alone", None) is None


def test_a_set_that_is_not_there_cannot_be_rendered(modes: Bench) -> None:
    bench = adapted("image-to-video", modes, (CLIPS,), probability=None)
    validation = {"validation_using_datasets": True, "eval_dataset_id": "clip"}
    recipe = Recipe.model_validate({**bench.recipe.model_dump(), "validation": validation})
    with pytest.raises(ConfigError, match=r"validation\.eval_dataset_id: `clip` is not a .* `clips`"):
        Bench(bench.root, recipe).probe()
