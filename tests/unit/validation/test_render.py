"""Rendering from stored features, against the ordinary pipeline with its own Gemma, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.loading import load_text_encoder
from ltxcore.models.files.locate_weights import check_adapter, find_adapter
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.lora.header import AdapterError
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.text.caption_encoder import CaptionEncoder, TextFeatures, load_feature_extractor
from ltxcore.models.tiny.model import write_tiny
from ltxcore.validation.components import load_components
from ltxcore.validation.render import BrokenRendering, Renderer
from ltxcore.validation.rendering_settings import RenderSettings, is_distilled, render_settings
from ltxcore.validation.schedule import given_scheduler, reference_scheduler
from ltxcore.validation.video_file import write_video
from tests.rounding import assert_alike

PROMPT, NEGATIVE = "A red ball rolls along a pier while gulls call.", "blurry"
# 50 fps keep the sound short: the vocoder is the slowest part of a tiny model.
SIZE = {"width": 64, "height": 64, "num_frames": 9, "frame_rate": 50.0, "num_inference_steps": 2}
RENDERING = 64_000
"""The terms that a sample of the sound goes through: two steps of four passes, audio VAE and vocoder."""
SETTINGS = {
    "validation_resolution": "64x64",
    "validation_num_video_frames": 9,
    "validation_frame_rate": 50.0,
    "validation_num_inference_steps": 2,
    "validation_guidance": 5.0,
    "validation_seed": 0,
}


def tiny(directory: Path, version: str) -> ModelSource:
    root = directory / version
    write_tiny(root, version)
    return resolve_model(ModelSettings(pretrained_model_name_or_path=str(root)), directory)


@pytest.fixture(scope="module")
def source(tinies: dict[str, ModelSource]) -> ModelSource:
    return tinies["2.0"]


@pytest.fixture(scope="module")
def features(source: ModelSource) -> dict[str, TextFeatures]:
    return features_of(source)


def features_of(source: ModelSource) -> dict[str, TextFeatures]:
    """Prompt -> features as embed-text stores them, but in float32 to compare to float noise."""
    tokenizer, text_model = load_text_encoder(source, torch.float32, "cpu")
    extractor = load_feature_extractor(source, torch.float32, "cpu")
    encoder = CaptionEncoder(tokenizer, text_model, extractor, source.text_max_tokens, torch.float32)
    texts = (PROMPT, NEGATIVE)
    return dict(zip(texts, encoder.encode(texts), strict=True))


def plan(**changes: Any) -> RenderSettings:
    return render_settings(ValidationSettings.model_validate({**SETTINGS, **changes}))


def renderer_of(source: ModelSource, **changes: Any) -> Renderer:
    return Renderer(load_components(source, torch.float32, "cpu"), plan(**changes))


def write_lora(
    source: ModelSource,
    file: Path,
    scale: float = 0.5,
    suffixes: tuple[str, ...] = ("to_q", "to_v"),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """A random rank-4 LoRA in the layout that train-lora writes."""
    from ltxcore.models.files.loading import load_transformer

    transformer = load_transformer(source, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(1)
    tensors, targets = {}, []
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(suffixes):
            targets.append(name)
            for part, shape in (("A", (4, module.in_features)), ("B", (module.out_features, 4))):
                weight = torch.randn(shape, generator=generator) * scale
                tensors[f"transformer.{name}.lora_{part}.weight"] = weight
    adapter = {"transformer.r": 4, "transformer.lora_alpha": 4.0, "transformer.target_modules": targets}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(adapter), **(metadata or {})})


@pytest.mark.parametrize(("version", "guidance"), [("2.0", 1.0), ("2.0", 5.0), ("2.3", 5.0), ("2.5", 5.0)])
def test_stored_features_render_what_the_ordinary_pipeline_renders(
    version: str, guidance: float, tinies: dict[str, ModelSource]
) -> None:
    from diffusers import LTX2Pipeline

    source = tinies[version]
    features = features_of(source)
    wanted = plan(validation_guidance=guidance)
    ordinary = LTX2Pipeline.from_pretrained(source.root, dtype=torch.float32)
    ordinary.scheduler = reference_scheduler()
    ordinary.set_progress_bar_config(disable=True)
    begin = ""
    if version == "2.5":
        # What the reference does and diffusers' pipeline leaves out: the marker, and BOS before the text.
        install_cross_modulation(ordinary.transformer)
        begin = "<bos>"
    video, audio = ordinary(
        prompt=begin + PROMPT,
        negative_prompt=begin + NEGATIVE,
        **SIZE,
        guidance_scale=guidance,
        # The reference's scales, and none of them where the weights are distilled.
        audio_guidance_scale=7.0 if guidance > 1 else 1.0,
        stg_scale=1.0 if guidance > 1 else 0.0,
        use_cross_timestep=True,
        modality_scale=3.0 if guidance > 1 else 1.0,
        guidance_rescale=0.7 if guidance > 1 else 0.0,
        audio_stg_scale=None,
        audio_modality_scale=None,
        audio_guidance_rescale=None,
        # Block 29 of 48, or 28, is the second of these two.
        spatio_temporal_guidance_blocks=[1],
        generator=torch.Generator().manual_seed(wanted.seed_of("ball")),
        max_sequence_length=source.text_max_tokens,
        output_type="np",
        return_dict=False,
    )
    found = renderer_of(source, validation_guidance=guidance).render(
        "ball", features[PROMPT], features[NEGATIVE]
    )
    levels = np.abs(found.frames.astype(float) - video[0] * 255)
    assert found.frames.shape == (9, 64, 64, 3)
    assert levels.max() <= 0.51, "half a level is the rounding to uint8"
    reference = audio[0].numpy()
    assert found.audio.shape == reference.shape
    assert_alike(torch.from_numpy(found.audio), audio[0], RENDERING)
    assert np.std(found.frames) > 1, "a flat picture would be equal to anything"
    assert np.std(found.audio) > 1e-5


def test_a_rendering_is_repeatable_and_its_seed_is_the_names(
    source: ModelSource, features: dict[str, TextFeatures], tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    renderer = renderer_of(source)
    first = renderer.render(
        "ball", *features.values(), progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(1, 2), (2, 2)]
    torch.manual_seed(12345)
    again = renderer_of(source).render("ball", *features.values())
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.audio, again.audio)
    other = renderer.render("other", *features.values())
    assert other.seed != first.seed
    assert not np.array_equal(first.frames, other.frames)
    assert first.sample_rate == 24000
    assert first.audio.shape[1] / first.sample_rate == pytest.approx(9 / 50, abs=0.05)
    write_video(tmp_path / "ball.mp4", first)
    assert (tmp_path / "ball.mp4").stat().st_size > 1000


def test_base_and_lora_come_from_one_model_and_the_lora_leaves_no_trace(
    source: ModelSource, features: dict[str, TextFeatures], tmp_path: Path
) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    write_lora(source, file)
    renderer = renderer_of(source)
    before = renderer.render("ball", *features.values())
    with renderer.adapter(file):
        adapted = renderer.render("ball", *features.values())
        with pytest.raises(RuntimeError, match="already"), renderer.adapter(file):
            pass
    after = renderer.render("ball", *features.values())
    assert not np.array_equal(before.frames, adapted.frames)
    assert not np.array_equal(before.audio, adapted.audio)
    assert np.array_equal(before.frames, after.frames)
    assert np.array_equal(before.audio, after.audio)
    with renderer.adapter(file):
        assert np.array_equal(renderer.render("ball", *features.values()).frames, adapted.frames)


def test_the_lora_that_training_exports_is_the_one_that_is_rendered(
    source: ModelSource, features: dict[str, TextFeatures], tmp_path: Path
) -> None:
    """A rendering with the file equals one from a transformer with B·A added to its weights."""
    file = tmp_path / "pytorch_lora_weights.safetensors"
    write_lora(source, file, scale=0.2)
    renderer = renderer_of(source)
    with renderer.adapter(file):
        adapted = renderer.render("ball", *features.values())
    from safetensors.torch import load_file

    components = load_components(source, torch.float32, "cpu")
    weights = load_file(file)
    for key in [key for key in weights if ".lora_A." in key]:
        name = key.removeprefix("transformer.").removesuffix(".lora_A.weight")
        module = components.transformer.get_submodule(name)
        module.weight.data += weights[key.replace(".lora_A.", ".lora_B.")] @ weights[key]
    merged = Renderer(components, plan()).render("ball", *features.values())
    assert np.abs(adapted.frames.astype(int) - merged.frames.astype(int)).max() <= 1
    assert_alike(torch.from_numpy(adapted.audio), torch.from_numpy(merged.audio), RENDERING)


def test_files_that_are_no_lora_of_this_model_are_refused(
    source: ModelSource, features: dict[str, TextFeatures], tmp_path: Path
) -> None:
    renderer = renderer_of(source)
    before = renderer.render("ball", *features.values())
    with (
        pytest.raises(FileNotFoundError, match="train-lora"),
        renderer.adapter(tmp_path / "none.safetensors"),
    ):
        pass
    query = "transformer_blocks.0.attn1.to_q.lora_{}.weight"
    for name, tensors, message in (
        ("shape", {f"transformer.{query}": (7, 64)}, "size mismatch"),
        ("name", {"transformer.nowhere.to_q.lora_{}.weight": (64, 64)}, "not found in the base model"),
        ("connectors", {"connectors.x.lora_{}.weight": (64, 64)}, r"transformer alone.*found connectors\.x"),
        ("no-lora", {"transformer.proj_in.weight": (64, 64)}, "Invalid LoRA"),
        ("empty", {}, "found nothing"),
    ):
        weights = {}
        for key, (fan_in, fan_out) in tensors.items():
            weights[key.format("A")] = torch.zeros(4, fan_in)
            weights[key.format("B")] = torch.zeros(fan_out, 4)
        save_file(weights, tmp_path / f"{name}.safetensors")
        with pytest.raises(AdapterError, match=message), renderer.adapter(tmp_path / f"{name}.safetensors"):
            pass
    (tmp_path / "text.safetensors").write_text("not weights")
    with (
        pytest.raises(AdapterError, match="not a safetensors"),
        renderer.adapter(tmp_path / "text.safetensors"),
    ):
        pass
    after = renderer.render("ball", *features.values())
    assert np.array_equal(before.frames, after.frames)


def test_broken_weights_are_an_error_and_not_a_black_picture(
    source: ModelSource, features: dict[str, TextFeatures], tmp_path: Path
) -> None:
    file = tmp_path / "nan.safetensors"
    write_lora(source, file, scale=float("nan"))
    renderer = renderer_of(source)
    with pytest.raises(BrokenRendering, match="look at the training's loss"), renderer.adapter(file):
        renderer.render("ball", *features.values())


def test_guidance_needs_a_negative_prompt(source: ModelSource, features: dict[str, TextFeatures]) -> None:
    with pytest.raises(ValueError, match="negative prompt"):
        renderer_of(source).render("ball", features[PROMPT])
    renderer_of(source, validation_guidance=1.0).render("ball", features[PROMPT])


def test_adapters_are_stacked_by_their_strengths(
    source: ModelSource, features: dict[str, TextFeatures], tmp_path: Path
) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    write_lora(source, one)
    write_lora(source, other, suffixes=("to_k",))
    renderer = renderer_of(source, validation_guidance=1.0)

    def sound(*adapters: Path | tuple[Path, float]) -> np.ndarray:
        with renderer.adapter(*adapters):
            return renderer.render("ball", features[PROMPT]).audio

    base = sound()
    assert np.array_equal(sound((one, 0.0)), base)
    assert np.array_equal(sound(one), sound((one, 1.0)))
    assert np.array_equal(sound(one, (other, 0.0)), sound(one))
    seen = [base, sound(one), sound((one, 0.5)), sound(other), sound(one, other)]
    assert len({rendering.tobytes() for rendering in seen}) == len(seen)
    assert np.array_equal(sound(), base), "no trace of them stays"


def test_distilled_weights_have_a_schedule_of_their_own() -> None:
    fast = plan().distilled()
    assert (fast.steps, fast.is_guided, fast.stg_scale, fast.modality_scale) == (8, False, 0.0, 1.0)
    scheduler = given_scheduler()
    scheduler.set_timesteps(8, sigmas=list(fast.sigmas or ()), mu=2.05)
    table = [1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0]
    assert scheduler.sigmas.tolist() == pytest.approx(table)
    assert is_distilled(Path("ltx-2-19b-distilled-lora-384.safetensors"))
    assert not is_distilled(Path("ltx-2-19b-ic-lora-canny-control.safetensors"))


def test_an_adapter_is_a_file_or_a_name_on_the_hub(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.touch()
    assert find_adapter(str(file), fetch=False) == file
    check_adapter("Lightricks/LTX-2-19b-LoRA-Camera-Control-Static:ltx-2-19b-lora.safetensors")
    for wrong in (
        "nowhere.safetensors",
        "Lightricks/LTX-2",
        "Lightricks/LTX-2:weights.bin",
        ":a.safetensors",
    ):
        with pytest.raises(ModelError, match=r"give a \.safetensors, or repo_id:weight_name"):
            find_adapter(wrong, fetch=True)
    with pytest.raises(ModelError, match="not in this machine's hub cache"):
        find_adapter("someone/who-is-not-there:lora.safetensors", fetch=False)


def test_a_zero_that_is_asked_for_is_a_zero() -> None:
    keys = ("audio_guidance", "stg_scale", "modality_scale", "rescale")

    def scales(**changes: Any) -> tuple[float, ...]:
        found = plan(**changes)
        return tuple(getattr(found, key) for key in keys)

    assert scales() == (7.0, 1.0, 3.0, 0.7)
    assert scales(validation_guidance=1.0) == (1.0, 0.0, 1.0, 0.0)
    none = {"validation_stg_scale": 0, "validation_guidance_rescale": 0.0, "validation_modality_scale": 1}
    assert scales(**none, validation_audio_guidance=1) == (1.0, 0.0, 1.0, 0.0)
    assert scales(validation_guidance=1.0, validation_stg_scale=0.5)[1] == 0.5
    assert plan().shown_guidance() == "5, sound 7, STG 1, modality 3, rescale 0.7"


@pytest.mark.parametrize(
    "changes",
    [
        {"validation_audio_guidance": 2.0},
        {"validation_stg_scale": 0.0},
        {"validation_stg_blocks": (0,)},
        {"validation_modality_scale": 1.0},
        {"validation_guidance_rescale": 0.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_scale_changes_the_rendering(
    source: ModelSource, features: dict[str, TextFeatures], changes: dict[str, Any]
) -> None:
    usual = renderer_of(source).render("ball", *features.values())
    other = renderer_of(source, **changes).render("ball", *features.values())
    assert not np.array_equal(usual.audio, other.audio)


def test_stg_of_a_block_that_is_not_there_is_refused_by_name(
    source: ModelSource, features: dict[str, TextFeatures]
) -> None:
    renderer = renderer_of(source, validation_stg_blocks=(29,))
    with pytest.raises(ValueError, match="validation_stg_blocks names block 29, and the transformer has 2"):
        renderer.render("ball", *features.values())
    with pytest.raises(ValueError, match="validation_stg_blocks"):
        plan(validation_stg_blocks=(1, 1))


def test_rendering_in_bfloat16_from_bfloat16_features(
    source: ModelSource, features: dict[str, TextFeatures]
) -> None:
    """As on a GPU."""
    stored = [
        TextFeatures(f.video.bfloat16(), None if f.audio is None else f.audio.bfloat16())
        for f in features.values()
    ]
    renderer = Renderer(load_components(source, torch.bfloat16, "cpu"), plan())
    found = renderer.render("ball", *stored)
    exact = renderer_of(source).render("ball", *features.values())
    assert np.corrcoef(found.frames.ravel(), exact.frames.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("tokens", [126, 1024, 6120])
def test_the_schedule_is_the_references_for_every_size(tokens: int) -> None:
    """The eight sigmas of ltx2-facts section 6, reached as the pipeline reaches them."""
    from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift

    scheduler = reference_scheduler()
    config = scheduler.config
    mu = calculate_shift(
        tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )
    scheduler.set_timesteps(8, sigmas=np.linspace(1.0, 1 / 8, 8), mu=mu)
    table = [1, 0.9657, 0.9219, 0.8639, 0.7834, 0.6646, 0.4710, 0.1, 0]
    assert scheduler.sigmas.tolist() == pytest.approx(table, abs=1e-4)
