"""Renderings in two stages with the latent upsampler, against diffusers' own pipelines, on tiny models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ltxcore.models.files.latent_upsampler import open_upsampler
from ltxcore.models.files.source import ModelSource
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import Reference
from ltxcore.validation.components import load_components
from ltxcore.validation.given_tokens import Given, GivenTokens
from ltxcore.validation.render import Renderer
from ltxcore.validation.rendering_settings import Rendering, RenderSettings
from ltxcore.validation.schedule import given_scheduler, reference_scheduler
from tests.rounding import assert_alike
from tests.unit.validation.test_render import NEGATIVE, PROMPT, RENDERING, features_of, plan, write_lora
from tests.unit.validation.upsamplers import tiny_upsampler, write_file, write_folder

REFINED = 2 * RENDERING
"""The terms of a sample of the sound: two stages instead of one."""


def two_stages(**changes: Any) -> RenderSettings:
    return plan(upscale=2, **changes)


def renderer_of(source: ModelSource, root: Path) -> Renderer:
    file = root / f"{source.version.name}.safetensors"
    if not file.is_file():
        write_file(tiny_upsampler(source), file)
    parts = load_components(source, torch.float32, "cpu", upsampler=open_upsampler(file))
    return Renderer(parts, two_stages())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upsamplers")


@pytest.fixture(scope="module")
def renderer(tinies: dict[str, ModelSource], root: Path) -> Renderer:
    return renderer_of(tinies["2.3"], root)


@pytest.fixture(scope="module")
def texts(tinies: dict[str, ModelSource]) -> list[Any]:
    return list(features_of(tinies["2.3"]).values())


def diffusers_in_two_stages(
    source: ModelSource, lora: Path | None, wanted: RenderSettings
) -> tuple[Any, Any]:
    """The documented way: the pipeline, the upsampling pipeline, and the pipeline again from its latents."""
    from diffusers import LTX2LatentUpsamplePipeline, LTX2Pipeline

    ordinary = LTX2Pipeline.from_pretrained(source.root, dtype=torch.float32)
    ordinary.set_progress_bar_config(disable=True)
    install_cross_modulation(ordinary.transformer)
    begin = "<bos>" if source.version.name == "2.5" else ""
    call: dict[str, Any] = {
        "prompt": begin + PROMPT,
        "negative_prompt": begin + NEGATIVE,
        "num_frames": 9,
        "frame_rate": 50.0,
        "use_cross_timestep": True,
        "generator": torch.Generator().manual_seed(wanted.seed_of("ball")),
        "max_sequence_length": source.text_max_tokens,
        # Those of the video.
        "audio_stg_scale": None,
        "audio_modality_scale": None,
        "audio_guidance_rescale": None,
        "return_dict": False,
    }
    guided = {
        "guidance_scale": 5.0,
        "audio_guidance_scale": 7.0,
        "stg_scale": 1.0,
        "modality_scale": 3.0,
        "guidance_rescale": 0.7,
        "spatio_temporal_guidance_blocks": [1],
    }
    ordinary.scheduler = reference_scheduler()
    small, sound = ordinary(
        **call, **guided, width=64, height=64, num_inference_steps=2, output_type="latent"
    )
    doubling = LTX2LatentUpsamplePipeline(vae=ordinary.vae, latent_upsampler=tiny_upsampler(source))
    doubling.set_progress_bar_config(disable=True)
    large = doubling(latents=small, output_type="latent", return_dict=False)[0]
    ordinary.scheduler = given_scheduler()
    if lora is not None:
        ordinary.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name="distilled")
        ordinary.set_adapters("distilled", 0.8)
        off = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
        guided = {"guidance_scale": 1.0, "audio_guidance_scale": 1.0, **off}
    sigmas = [0.909375, 0.725, 0.421875]
    video, audio = ordinary(
        **call,
        **guided,
        width=128,
        height=128,
        latents=large,
        audio_latents=sound,
        noise_scale=sigmas[0],
        num_inference_steps=3,
        sigmas=sigmas,
        output_type="np",
    )
    return video[0], audio[0]


@pytest.mark.parametrize(("version", "distilled"), [("2.0", False), ("2.3", True), ("2.5", True)])
def test_two_stages_render_what_diffusers_renders(
    version: str, distilled: bool, tinies: dict[str, ModelSource], root: Path, tmp_path: Path
) -> None:
    source, steps = tinies[version], list[tuple[int, int]]()
    lora = tmp_path / "distilled.safetensors" if distilled else None
    if lora is not None:
        write_lora(source, lora)
    features = features_of(source)
    renderer = renderer_of(source, root)
    with renderer.adapter(second=None if lora is None else (lora, 0.8)):
        found = renderer.render(
            "ball", features[PROMPT], features[NEGATIVE], lambda done, total: steps.append((done, total))
        )
    video, audio = diffusers_in_two_stages(source, lora, two_stages())
    assert found.frames.shape == (9, 128, 128, 3)
    assert np.abs(found.frames.astype(float) - video * 255).max() <= 0.51, "rounding to uint8"
    assert_alike(torch.from_numpy(found.audio), audio, REFINED)
    assert np.std(found.frames) > 1, "a flat picture would be equal to anything"
    assert np.std(found.audio) > 1e-5
    assert steps == [(number, 5) for number in range(1, 6)]


def rendered(renderer: Renderer, texts: list[Any], wanted: RenderSettings | None = None) -> Rendering:
    return renderer.render("ball", *texts, plan=wanted or two_stages())


def test_the_same_seed_gives_the_same_bits_and_the_second_lora_leaves_no_trace(
    renderer: Renderer, texts: list[Any], tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    trained, distilled = tmp_path / "trained.safetensors", tmp_path / "distilled.safetensors"
    write_lora(tinies["2.3"], trained, suffixes=("to_k",))
    write_lora(tinies["2.3"], distilled)
    one_stage = plan()
    before, small = rendered(renderer, texts), rendered(renderer, texts, one_stage)
    torch.manual_seed(7)
    assert np.array_equal(rendered(renderer, texts).frames, before.frames)
    seen = [before]
    for files, second in (((), (distilled, 1.0)), ((trained,), None), ((trained,), (distilled, 1.0))):
        with renderer.adapter(*files, second=second):
            seen.append(rendered(renderer, texts))
            if not files:
                assert np.array_equal(rendered(renderer, texts, one_stage).frames, small.frames)
    assert len({found.frames.tobytes() for found in seen}) == len(seen)
    # At strength 0 the second stage is that of the base without guidance, and so is the first.
    with renderer.adapter(second=(distilled, 0.0)):
        off = rendered(renderer, texts)
    assert not np.array_equal(off.frames, seen[1].frames)
    assert np.array_equal(rendered(renderer, texts).frames, before.frames)
    assert np.array_equal(rendered(renderer, texts).audio, before.audio)
    assert np.array_equal(rendered(renderer, texts, one_stage).frames, small.frames)


def test_the_second_lora_goes_beside_a_loha(
    renderer: Renderer, texts: list[Any], tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    transformer, generator = renderer._components.transformer, torch.Generator().manual_seed(1)
    factors = {}
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith("to_q"):
            outer, inner = (module.out_features, 2), (2, module.in_features)
            for part, shape in (("w1_a", outer), ("w1_b", inner), ("w2_a", outer), ("w2_b", inner)):
                factors[f"transformer.{name}.hada_{part}"] = torch.randn(shape, generator=generator) / 2
    loha, distilled = tmp_path / "loha.safetensors", tmp_path / "distilled.safetensors"
    save_file(factors, loha)
    write_lora(tinies["2.3"], distilled)
    with renderer.adapter(loha):
        alone, small = rendered(renderer, texts), rendered(renderer, texts, plan())
    with renderer.adapter(loha, second=(distilled, 1.0)):
        both, first = rendered(renderer, texts), rendered(renderer, texts, plan())
    assert not np.array_equal(both.frames, alone.frames)
    assert np.array_equal(first.frames, small.frames), "the first stage has the LoHa alone"


def test_what_is_given_is_upscaled_and_held_in_the_second_stage(
    renderer: Renderer, texts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, calls = renderer._components, list[dict[str, Any]]()
    cells = 4
    drawn = torch.randn(cells, 16, generator=torch.Generator().manual_seed(1))
    # One cell of the four of the first latent frame.
    beside = torch.randn(1, 16, 1, 2, 2)
    given = Given(
        video=GivenTokens(drawn, torch.tensor([False, True, False, False])),
        references=(Reference(beside), Reference(beside, frame=8)),
    )
    hook = parts.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
    )
    with renderer.giving(given):
        rendered(renderer, texts, replace(two_stages(), guidance=1.0, audio_guidance=1.0, stg_scale=0.0))
    hook.remove()
    first, second = calls[0], calls[-1]
    beside_tokens = list(range(8, 16))
    assert (first["timestep"][0] == 0).nonzero().flatten().tolist() == [1, *beside_tokens]
    # Twice as wide and high: rows of four cells, of which the given one takes the right two of two rows.
    # Of what is beside it the keyframe has stayed, on the same part of the picture.
    keyframe = [32, 33, 34, 35]
    assert (second["timestep"][0] == 0).nonzero().flatten().tolist() == [2, 3, 6, 7, *keyframe]
    places = [call["video_coords"][0, :, -4:, 1].amax(1).tolist() for call in (first, second)]
    assert places == [pytest.approx([9 / 50, 64, 64]), pytest.approx([9 / 50, 128, 128])]
    held = [call["hidden_states"][0][[2, 3, 6, 7]] for call in calls if call["hidden_states"].shape[1] == 36]
    assert len(held) == 3
    assert all(torch.equal(held[0], other) for other in held)
    assert not torch.equal(second["hidden_states"][0][0], held[0][0])


def test_pictures_alone_are_upscaled(renderer: Renderer, texts: list[Any]) -> None:
    found = rendered(renderer, texts, two_stages().of("video"))
    assert found.frames.shape == (9, 128, 128, 3)
    assert found.audio.shape[1] == 0
    assert not np.array_equal(found.frames, rendered(renderer, texts).frames)
    # A sound alone has no pictures to double.
    assert two_stages().of("audio").upscale == 1


def test_both_layouts_hold_the_same_upsampler(tinies: dict[str, ModelSource], tmp_path: Path) -> None:
    model = tiny_upsampler(tinies["2.0"])
    folder = open_upsampler(write_folder(model, tmp_path / "model") / "latent_upsampler")
    file = open_upsampler(write_file(model, tmp_path / "x2.safetensors"))
    assert folder.values == file.values > 0
    latents = torch.randn(1, 16, 2, 2, 2)
    from ltxcore.models.files.loading import load_latent_upsampler

    with torch.no_grad():
        wanted = model(latents)
        for found in (folder, file):
            assert torch.equal(load_latent_upsampler(found, torch.float32, "cpu")(latents), wanted)
