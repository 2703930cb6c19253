"""What is given beside a clip, through the stages: several references, keyframes, voices."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ltxcore.config.recipe import Recipe
from ltxcore.jobs.explain.explain import explain_clip
from ltxcore.media.decode import decode_frames
from ltxcore.models.files.loading import load_video_vae
from ltxcore.models.vae.video_latents import encode_videos
from ltxcore.pipeline.plan.transformer_plan import workload_of
from ltxcore.stages.encode_latents.request import request as encode_latents_request
from ltxcore.stages.render_validation.given_clips import GivenClips
from ltxcore.stages.train_lora.stored_samples import StoredSamples
from tests.stages.conftest import Bench
from tests.stages.test_training_modes import (
    CLIPS,
    LATENT_FRAMES,
    MODES,
    SOUNDS,
    VOICES,
    adapted,
    modes,
    reasons,
    trained,
)
from tests.unit.media.files import caption, tone

__all__ = ["modes"]


def test_several_references_are_read_encoded_planned_and_given_in_their_order(modes: Bench) -> None:
    sets = next(m for m in MODES if m.recipe == "ic-lora-several").sets
    bench = adapted("ic-lora-several", modes, sets, probability=None)
    validation = {"validation_using_datasets": True, "eval_dataset_id": "clips"}
    bench = Bench(bench.root, Recipe.model_validate({**bench.recipe.model_dump(), "validation": validation}))
    bench.prepare()
    ctx = bench.ctx
    (entry, _) = StoredSamples(ctx).entries()
    assert entry.bucket == "64x64@121+64x64@121+32x32@57"
    shapes = [(16, LATENT_FRAMES, 2, 2), (16, 8, 1, 1)]
    loaded = StoredSamples(ctx).load(entry.sample_id, None).references
    assert [tuple(r.latents.shape) for r in loaded] == shapes
    held = GivenClips(ctx).of("one", load_video_vae(ctx.source, torch.float32, "cpu"))
    assert held is not None
    assert [tuple(r.latents.shape[1:]) for r in held.references] == shapes
    assert [(r.spatial_factor, r.temporal_factor) for r in held.references] == [(1, 1), (2, 2)]
    assert workload_of(ctx).beside_tokens == LATENT_FRAMES * 4 + 8


def test_keyframes_alone_are_encoded_for_a_recipe_that_gives_them(modes: Bench) -> None:
    plain = adapted("text-to-video", modes, (CLIPS,), probability=None)
    plain.prepare()
    assert "keyframes" not in encode_latents_request(plain.ctx)
    bench = adapted("keyframes", modes, (CLIPS,), probability=None)
    keyed = {"video": {"conditions": [{"type": "keyframes", "at": [0, 60, -1]}]}}
    bench = Bench(bench.root, Recipe.model_validate({**bench.recipe.model_dump(), "conditioning": keyed}))
    tracks = {track.what: track.state for track in explain_clip(bench.ctx, "clips/one.mp4").tracks}
    assert tracks["video latents"] == "stored"
    bench.encode()
    ctx = bench.ctx
    assert encode_latents_request(ctx)["keyframes"] == [0, 60, -1]
    assert all(track.state == "stored" for track in explain_clip(ctx, "clips/one.mp4").tracks)
    sample = StoredSamples(ctx).load("clips/one.mp4", None)
    assert [keyframe.frame for keyframe in sample.keyframes] == [60, 120]
    vae = load_video_vae(ctx.source, torch.float32, "cpu")
    clip = next(s for s in ctx.snapshot.samples if s.id == "clips/one.mp4")
    for keyframe in sample.keyframes:
        assert keyframe.frame is not None
        shown = decode_frames(ctx.snapshot.file(clip), clip.frames.only([keyframe.frame]), clip.geometry)
        (alone,) = encode_videos(vae, [shown])
        assert torch.equal(keyframe.latents, alone.bfloat16())
    assert bench.encode() == {"video": 0, "audio": 0}
    assert workload_of(ctx).beside_tokens == 2 * 4


def test_voices_are_split_encoded_planned_and_given(modes: Bench) -> None:
    sets = next(m for m in MODES if m.recipe == "voice-reference").sets
    bench = adapted("voice-reference", modes, sets, probability=None)
    validation = {"validation_using_datasets": True, "eval_dataset_id": "clips"}
    bench = Bench(bench.root, Recipe.model_validate({**bench.recipe.model_dump(), "validation": validation}))
    bench.prepare()
    ctx = bench.ctx
    source = StoredSamples(ctx)
    assert {entry.bucket for entry in source.entries()} == {"64x64@121+audio@2s"}
    voices = [source.load(entry.sample_id, None).reference_sound for entry in source.entries()]
    one, two = (voice for voice in voices if voice is not None)
    assert one.shape == two.shape == (50, 8)
    assert not torch.equal(one, two)
    assert bench.encode() == {"video": 0, "audio": 0}
    held = GivenClips(ctx).of("one", load_video_vae(ctx.source, torch.float32, "cpu"))
    assert held is not None
    assert held.sound_reference is not None
    assert torch.equal(held.sound_reference.latents[0], one)
    own = workload_of(ctx)
    assert own.tokens.audio == 121 + 50
    report = explain_clip(ctx, "voices/one.wav")
    assert (report.verdict, report.reason) == ("in", "belongs to clips/one.mp4")
    assert [track.what for track in report.tracks] == ["reference waveform", "reference audio latents"]


def test_a_voice_is_given_to_sound_that_is_trained_alone(modes: Bench, tmp_path: Path) -> None:
    for name in ("sounds", "spoken"):
        (tmp_path / name).mkdir()
    caption(tone(tmp_path / "sounds" / "one.wav", 3.0))
    tone(tmp_path / "spoken" / "one.wav", 4.0)
    sounds = {**SOUNDS, "instance_data_dir": str(tmp_path / "sounds"), "conditioning_data": "voices"}
    voices = {**VOICES, "instance_data_dir": str(tmp_path / "spoken")}
    bench = adapted("text-to-audio", modes, (sounds, voices), probability=None)
    asked = {"audio": {"conditions": [{"type": "reference"}]}}
    recipe = Recipe.model_validate({**bench.recipe.model_dump(), "conditioning": asked})
    bench = Bench(bench.root, recipe)
    bench.prepare()
    (entry,) = StoredSamples(bench.ctx).entries()
    assert entry.bucket == "audio@3s+audio@2s"
    moved, _, _ = trained(bench, tmp_path)
    assert any(name.endswith(".audio_attn1.to_k") for name in moved)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [("short", "is too short: 0.50 s, and a second is the least"), ("missing", "has no reference_audio in")],
)
def test_a_voice_that_does_not_fit_rejects_its_clip(
    modes: Bench, tmp_path: Path, wrong: str, reason: str
) -> None:
    shutil.copy2(modes.root / "voices" / "one.wav", tmp_path / "one.wav")
    if wrong == "short":
        tone(tmp_path / "two.wav", 0.5)
    sets = ({**CLIPS, "conditioning_data": "voices"}, {**VOICES, "instance_data_dir": str(tmp_path)})
    found = reasons(adapted("voice-reference", modes, sets, probability=None))
    assert reason in found["clips/two.mp4"]
    assert "clips/one.mp4" not in found
