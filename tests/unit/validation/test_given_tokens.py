"""Renderings that are given a beginning, a sound or a reference, on the tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.models.files.source import ModelSource
from ltxcore.models.predict_velocity import Reference, SoundReference
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.training.objective import patchify
from ltxcore.validation.components import load_components
from ltxcore.validation.first_frame import first_frame_latent, recompress
from ltxcore.validation.given_tokens import Given, GivenTokens
from ltxcore.validation.render import Renderer
from ltxcore.validation.rendering_settings import RenderSettings, render_settings
from tests.rounding import assert_alike, bound, terms_of

FRAMES, HEIGHT, WIDTH, LENGTH = 2, 2, 2, 4
SAMPLING = 32
"""Sums from the prediction to the decoder's input: guidance, rescale, two steps, the VAE's statistics."""
PLAN = render_settings(
    ValidationSettings(
        validation_resolution="64x64",
        validation_num_video_frames=9,
        validation_frame_rate=50.0,
        validation_num_inference_steps=2,
    )
)


@pytest.fixture(scope="module", params=["2.0", "2.5"])
def source(request: pytest.FixtureRequest, tinies: dict[str, ModelSource]) -> ModelSource:
    return tinies[request.param]


@pytest.fixture(scope="module")
def renderer(source: ModelSource) -> Renderer:
    return Renderer(load_components(source, torch.float32, "cpu"), PLAN)


def _watching(decode: Any, seen: dict[str, torch.Tensor], name: str) -> Any:
    def watch(latents: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen[name] = latents
        return decode(latents, *rest, **more)

    return watch


def drawn_text(connectors: Any, seed: int) -> TextFeatures:
    """Of four tokens, in the widths of a version's feature extractor."""
    generator = torch.Generator().manual_seed(seed)
    if not connectors.per_modality_projections:
        return TextFeatures(torch.randn(4, connectors.caption_channels, generator=generator), audio=None)
    widths = connectors.video_hidden_dim, connectors.audio_hidden_dim
    return TextFeatures(*(torch.randn(4, width, generator=generator) for width in widths))


class Watched:
    """What the model was called with, and the latents that were decoded, of one rendering."""

    def __init__(
        self,
        renderer: Renderer,
        given: Given | None,
        monkeypatch: pytest.MonkeyPatch,
        plan: RenderSettings = PLAN,
    ) -> None:
        parts, self.calls = renderer._components, list[dict[str, Any]]()
        texts, negative = (drawn_text(parts.connectors.config, seed) for seed in (1, 2))
        decoded: dict[str, torch.Tensor] = {}
        for name in ("vae", "audio_vae"):
            model = getattr(parts, name)
            monkeypatch.setattr(model, "decode", _watching(model.decode, decoded, name))
        with renderer.giving(given):
            # After the hooks of what is given, so that this sees what the model sees.
            hook = parts.transformer.register_forward_pre_hook(
                lambda module, args, kwargs: self.calls.append(dict(kwargs)), with_kwargs=True
            )
            self.rendering = renderer.render("name", texts, negative, plan=plan)
            hook.remove()
        monkeypatch.undo()
        vae = parts.vae
        mean, std = (getattr(vae, f"latents_{name}").view(1, -1, 1, 1, 1) for name in ("mean", "std"))
        self.video = patchify((decoded["vae"] - mean) / std)[0]
        packed = decoded["audio_vae"].transpose(1, 2).flatten(2)
        self.audio = ((packed - parts.audio_vae.latents_mean) / parts.audio_vae.latents_std)[0]


def tokens(count: int, width: int, given: int) -> GivenTokens:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(count))
    return GivenTokens(drawn, torch.arange(count) < given)


def test_a_given_beginning_is_seen_clean_and_comes_out_as_it_is(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tokens(4, 16, 4)
    seen = Watched(renderer, Given(video=part), monkeypatch)
    assert_alike(seen.video[:4], part.tokens, SAMPLING)
    assert not torch.allclose(seen.video[4:], part.tokens, atol=0.1)
    for call in seen.calls:
        assert torch.equal(call["hidden_states"][:, :4], part.tokens.expand(len(call["timestep"]), -1, -1))
        assert not call["timestep"][:, :4].any()
        assert call["timestep"][:, 4:].all()
        assert torch.equal(call["audio_timestep"], call["sigma"])


def test_single_tokens_stay_where_they_are_given(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    part = GivenTokens(torch.randn(8, 16), torch.tensor([False, True] * 4))
    seen = Watched(renderer, Given(video=part), monkeypatch)
    assert_alike(seen.video[part.given], part.tokens[part.given], SAMPLING)
    assert not torch.allclose(seen.video[~part.given], part.tokens[~part.given], atol=0.1)


def test_a_given_sound_is_at_time_zero_and_the_pictures_are_made(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tokens(LENGTH, 8, LENGTH)
    free = Watched(renderer, None, monkeypatch)
    seen = Watched(renderer, Given(audio=part), monkeypatch)
    assert_alike(seen.audio, part.tokens, SAMPLING)
    assert not torch.allclose(seen.video, free.video)
    for call in seen.calls:
        assert not call["audio_timestep"].any()
        assert not call["audio_sigma"].any()
        assert torch.equal(call["timestep"], call["sigma"])


def test_a_reference_adds_tokens_and_leaves_no_trace(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Watched(renderer, None, monkeypatch)
    reference = Reference(torch.randn(1, 16, 1, 1, 1), spatial_factor=2)
    seen = Watched(renderer, Given(references=(reference,)), monkeypatch)
    own = FRAMES * HEIGHT * WIDTH
    for call in seen.calls:
        assert call["hidden_states"].shape[1] == call["video_coords"].shape[2] == own + 1
        assert not call["timestep"][:, own:].any()
        assert call["timestep"][:, :own].all()
        assert call["video_coords"][0, 1:, own].tolist() == [[0, 64], [0, 64]]
    assert seen.rendering.frames.shape == before.rendering.frames.shape
    assert not np.array_equal(seen.rendering.frames, before.rendering.frames)
    after = Watched(renderer, None, monkeypatch)
    assert np.array_equal(after.rendering.frames, before.rendering.frames)


def test_each_of_several_references_changes_the_rendering(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    made = [
        Watched(renderer, Given(references=tuple(map(Reference, pair))), monkeypatch)
        for pair in ((drawn[0], drawn[1]), (drawn[0], drawn[2]), (drawn[2], drawn[1]))
    ]
    own = FRAMES * HEIGHT * WIDTH
    assert made[0].calls[0]["hidden_states"].shape[1] == own + 8
    assert not made[0].calls[0]["timestep"][:, own:].any()
    for other in made[1:]:
        assert float((made[0].video - other.video).abs().max()) > 0.01


@pytest.mark.parametrize("change", ["picture", "time"])
def test_a_keyframe_changes_the_rendering(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    drawn = [torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    keyframe = Reference(drawn[0], frame=8)
    other = replace(keyframe, latents=drawn[1]) if change == "picture" else replace(keyframe, frame=3)
    one, two = (Watched(renderer, Given(references=(given,)), monkeypatch) for given in (keyframe, other))
    own = FRAMES * HEIGHT * WIDTH
    assert one.calls[0]["hidden_states"].shape[1] == own + 4
    assert torch.equal(one.calls[0]["video_coords"][0, 0, own:], torch.tensor([[8 / 50, 9 / 50]] * 4))
    assert float((one.video - two.video).abs().max()) > 1e-4


@pytest.mark.parametrize("before", [True, False], ids=["before", "aligned"])
def test_a_voice_changes_the_sound_and_comes_out_nowhere(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    free = Watched(renderer, None, monkeypatch)
    drawn = [torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    one, two = (
        Watched(renderer, Given(sound_reference=SoundReference(voice, before)), monkeypatch)
        for voice in drawn
    )
    for call in one.calls:
        assert call["audio_hidden_states"].shape[1] == call["audio_coords"].shape[2] == LENGTH + 3
        assert not call["audio_timestep"][:, LENGTH:].any()
        assert call["audio_timestep"][:, :LENGTH].all()
        assert bool((call["audio_coords"][:, :, LENGTH:] < 0).all()) is before
    assert one.audio.shape == free.audio.shape
    for other in (free, two):
        assert float((one.audio - other.audio).abs().max()) > 0.01


VIDEO, AUDIO = ("encoder_hidden_states", "attn1"), ("audio_encoder_hidden_states", "audio_attn1")


@pytest.mark.parametrize(
    ("part", "given", "made"),
    [
        (Given(audio=tokens(LENGTH, 8, LENGTH)), AUDIO, VIDEO),
        (Given(video=tokens(8, 16, 8)), VIDEO, AUDIO),
    ],
    ids=["audio-to-video", "video-to-audio"],
)
def test_a_given_stream_keeps_its_text_without_guidance_and_is_not_perturbed(
    renderer: Renderer,
    monkeypatch: pytest.MonkeyPatch,
    part: Given,
    given: tuple[str, str],
    made: tuple[str, str],
) -> None:
    outputs: dict[str, list[torch.Tensor]] = {"attn1": [], "audio_attn1": []}
    # The block that STG perturbs: what goes into it is the same in the pass without.
    block = renderer._components.transformer.transformer_blocks[1]
    hooks = [
        getattr(block, name).register_forward_hook(
            lambda module, args, output, name=name: outputs[name].append(output[-1:])
        )
        for name in outputs
    ]
    seen = Watched(renderer, part, monkeypatch)
    for hook in hooks:
        hook.remove()
    both, perturbed, isolated = seen.calls[:3]
    assert perturbed["spatio_temporal_guidance_blocks"]
    assert isolated["isolate_modalities"]
    unconditional, positive = both[given[0]]
    assert torch.equal(unconditional, positive)
    assert torch.equal(perturbed[given[0]][0], positive)
    assert not torch.equal(*both[made[0]])
    # A batch of two and one of one round differently.
    assert_alike(outputs[given[1]][0], outputs[given[1]][1], terms_of(renderer._components.transformer))
    assert (outputs[made[1]][0] - outputs[made[1]][1]).abs().max() > 0.01


def test_given_tokens_count_as_they_are_in_the_guidance_and_its_rescale(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step from pure noise, with the guidance computed anew from what the model gave."""
    part = tokens(4, 16, 4)
    plan = replace(PLAN, steps=1, sigmas=(1.0,))
    velocities: list[torch.Tensor] = []
    hook = renderer._components.transformer.register_forward_hook(
        lambda module, args, output: velocities.append(output[0].double())
    )
    seen = Watched(renderer, Given(video=part), monkeypatch, plan)
    hook.remove()
    noise = seen.calls[0]["hidden_states"][:1].double()
    (uncond, cond), stg, alone = velocities[0].split(1), velocities[1], velocities[2]

    def clean(velocity: torch.Tensor) -> torch.Tensor:
        return part.put(noise - velocity)

    made = clean(cond)
    guided = made + (plan.guidance - 1) * (made - clean(uncond)) + plan.stg_scale * (made - clean(stg))
    guided = guided + (plan.modality_scale - 1) * (made - clean(alone))
    rescaled = plan.rescale * guided * made.std() / guided.std() + (1 - plan.rescale) * guided
    expected = part.put(rescaled)[0]
    allowed = bound(SAMPLING, float(guided.abs().max()))
    assert (seen.video.double() - expected).abs().max() < allowed
    assert plan.rescale
    assert (part.put(guided)[0] - expected).abs().max() > 1000 * allowed


def test_more_than_is_rendered_cannot_be_given(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="9 tokens are given, but the rendering has 8"):
        Watched(renderer, Given(video=tokens(9, 16, 9)), monkeypatch)


def smooth_picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows, columns = np.mgrid[0:64, 0:96]
    return np.stack([rows * 3, columns * 2, rows + columns], -1).astype(np.uint8)


def test_recompression_loses_more_at_a_higher_factor_and_keeps_the_picture() -> None:
    picture = smooth_picture()
    errors = [np.abs(recompress(picture, crf).astype(int) - picture).mean() for crf in (10, 33, 51)]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert errors[1] < 12
    assert recompress(picture, 33).shape == picture.shape
    assert np.array_equal(recompress(picture, 33), recompress(picture, 33))


def test_the_first_frames_latent_is_that_of_the_recompressed_picture(source: ModelSource) -> None:
    from ltxcore.models.files.loading import load_video_vae
    from ltxcore.models.vae.video_latents import encode_videos

    vae, picture = load_video_vae(source, torch.float32, "cpu"), smooth_picture()
    latent = first_frame_latent(vae, picture, 33)
    assert latent.shape == (16, 1, 2, 3)
    assert torch.equal(latent, encode_videos(vae, [recompress(picture, 33)[None]])[0])
    assert not torch.equal(latent, encode_videos(vae, [picture[None]])[0])


def test_a_set_to_evaluate_on_needs_the_key_that_uses_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation_using_datasets"):
        ValidationSettings(eval_dataset_id="clips")
