"""Cross modulation, and the one call of the transformer, against the bare model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ltxcore.models.files.loading import load_transformer
from ltxcore.models.files.source import ModelSource
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import (
    Reference,
    SoundReference,
    predict_velocity,
    reference_coords,
    sound_reference_coords,
)
from ltxcore.models.versions import VERSIONS
from tests.rounding import assert_alike, terms_of

FRAMES, HEIGHT, WIDTH, LENGTH = 3, 2, 3, 17
TOKENS = FRAMES * HEIGHT * WIDTH
SCALE_SHIFT = ("av_cross_attn_video_scale_shift", "av_cross_attn_audio_scale_shift")
GATES = ("av_cross_attn_video_a2v_gate", "av_cross_attn_audio_v2a_gate")


@pytest.fixture(scope="module", params=VERSIONS)
def source(request: pytest.FixtureRequest, tinies: dict[str, ModelSource]) -> ModelSource:
    return tinies[request.param]


@pytest.fixture
def transformer(source: ModelSource) -> Any:
    return load_transformer(source, torch.float32, "cpu")


def _inputs(transformer: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    config = transformer.config
    projected = config.use_prompt_embeddings
    return {
        "video": torch.randn(2, 16, FRAMES, HEIGHT, WIDTH, generator=generator),
        "audio": torch.randn(2, LENGTH, 8, generator=generator),
        "video_embeds": torch.randn(2, 16, 48 if projected else 64, generator=generator),
        "audio_embeds": torch.randn(2, 16, 48 if projected else 32, generator=generator),
    }


def _marker(transformer: Any) -> dict[str, torch.Tensor]:
    """The mask of the first latent frame's tokens, which a model from 2.5 on needs."""
    if not transformer.config.use_keyframes_abs_pos_embedding:
        return {}
    marked = torch.arange(TOKENS) < HEIGHT * WIDTH
    return {"video_keyframes_mask": marked.float()[None, :, None].expand(2, -1, -1)}


def _bare(transformer: Any, given: dict[str, torch.Tensor], fps: float, **more: Any) -> Any:
    """diffusers' call as its pipeline makes it, but for the marker: packed by hand, places by the model."""
    with torch.no_grad():
        video, audio = transformer(
            hidden_states=given["video"].permute(0, 2, 3, 4, 1).flatten(1, 3),
            audio_hidden_states=given["audio"],
            encoder_hidden_states=given["video_embeds"],
            audio_encoder_hidden_states=given["audio_embeds"],
            num_frames=FRAMES,
            height=HEIGHT,
            width=WIDTH,
            fps=fps,
            audio_num_frames=given["audio"].shape[1],
            return_dict=False,
            **_marker(transformer),
            **more,
        )
    return video.unflatten(1, (FRAMES, HEIGHT, WIDTH)).permute(0, 4, 1, 2, 3), audio


def _predict(transformer: Any, given: dict[str, Any], **more: Any) -> Any:
    sigma = torch.tensor([0.3, 0.8])
    times = dict.fromkeys(("video_times", "audio_times", "video_sigma", "audio_sigma"), sigma)
    with torch.no_grad():
        return predict_velocity(transformer, **{**given, **times, "fps": 25.0, **more})


def test_with_equal_times_nothing_changes(transformer: Any) -> None:
    given = _inputs(transformer)
    sigma = torch.tensor([300.0, 800.0])
    stock = [
        _bare(transformer, given, 25.0, timestep=sigma, sigma=sigma, use_cross_timestep=crossed)
        for crossed in (False, True)
    ]
    install_cross_modulation(transformer)
    found = _predict(transformer, given)
    for expected in stock:
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_scale_and_shift_follow_the_own_times_and_gates_the_other_sigma(transformer: Any) -> None:
    given = _inputs(transformer)
    video_sigma, audio_sigma = torch.tensor([0.3, 0.8]), torch.tensor([0.55, 0.1])
    video_times = video_sigma[:, None].repeat(1, TOKENS)
    video_times[:, : HEIGHT * WIDTH] = 0  # a clean first frame
    more = {
        "video_times": video_times,
        "audio_times": audio_sigma,
        "video_sigma": video_sigma,
        "audio_sigma": audio_sigma,
    }
    stock = _predict(transformer, given, **more)
    install_cross_modulation(transformer)
    # What the modules put out is what the blocks receive, so their inputs decide the modulation.
    received: dict[str, torch.Tensor] = {}
    for name in (*SCALE_SHIFT, *GATES):
        transformer.get_submodule(f"{name}.emb").register_forward_pre_hook(
            lambda _, args, kwargs, name=name: received.update({name: args[0]}), with_kwargs=True
        )
    blocks: dict[str, torch.Tensor] = {}
    transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: blocks.update(kwargs), with_kwargs=True
    )
    found = _predict(transformer, given, **more)
    assert torch.equal(received[SCALE_SHIFT[0]], video_times.flatten() * 1000)
    assert torch.equal(received[SCALE_SHIFT[1]], audio_sigma * 1000)
    assert torch.equal(received[GATES[0]], audio_sigma * 1000)
    assert torch.equal(received[GATES[1]], video_sigma * 1000)
    assert blocks["temb_ca_scale_shift"].shape[:2] == (2, TOKENS)
    assert blocks["temb_ca_gate"].shape[:2] == (2, 1)
    assert not torch.allclose(found[0], stock[0], atol=1e-5)


def test_it_equals_own_times_with_the_gates_given_the_other_sigma(transformer: Any) -> None:
    """The other way to the same modulation: diffusers' "own, own", with the gates' time replaced."""
    given = _inputs(transformer)
    video_sigma, audio_sigma = torch.tensor([0.3, 0.8]), torch.tensor([0.55, 0.1])
    video_times = video_sigma[:, None].repeat(1, TOKENS)
    video_times[:, : HEIGHT * WIDTH] = 0
    times = {"video_sigma": video_sigma, "audio_sigma": audio_sigma}
    times |= {"video_times": video_times, "audio_times": audio_sigma}
    hooks = [
        transformer.get_submodule(name).register_forward_pre_hook(
            lambda _, args, sigma=sigma: (sigma * 1000,)
        )
        for name, sigma in zip(GATES, (audio_sigma, video_sigma), strict=True)
    ]
    expected = _bare(
        transformer,
        given,
        25.0,
        timestep=video_times * 1000,
        audio_timestep=audio_sigma * 1000,
        sigma=video_sigma * 1000,
        audio_sigma=audio_sigma * 1000,
        use_cross_timestep=False,
    )
    for hook in hooks:
        hook.remove()
    install_cross_modulation(transformer)
    found = _predict(transformer, given, **times)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_removing_it_gives_the_stock_model_back(transformer: Any) -> None:
    given = _inputs(transformer)
    more = {"audio_times": torch.tensor([0.9, 0.2]), "audio_sigma": torch.tensor([0.9, 0.2])}
    stock = _predict(transformer, given, **more)
    modulation = install_cross_modulation(transformer)
    assert not torch.equal(_predict(transformer, given, **more)[0], stock[0])
    modulation.remove()
    assert torch.equal(_predict(transformer, given, **more)[0], stock[0])


def test_calls_that_would_modulate_wrongly_are_refused(transformer: Any) -> None:
    install_cross_modulation(transformer)
    given = _inputs(transformer)
    sigma = torch.tensor([300.0, 800.0])
    with pytest.raises(TypeError, match="use_cross_timestep=None, absent: sigma"):
        _bare(transformer, given, 25.0, timestep=sigma)
    with pytest.raises(TypeError, match="found 1 positional"):
        transformer(given["video"], timestep=sigma, sigma=sigma, use_cross_timestep=True)
    tokens = sigma[:, None].repeat(1, TOKENS)
    with pytest.raises(TypeError, match="per-token timestep needs audio_timestep too"):
        _bare(transformer, given, 25.0, timestep=tokens, sigma=sigma, use_cross_timestep=True)
    # The text-to-video pipeline gives one time for both, without naming the sound's.
    _bare(transformer, given, 25.0, timestep=sigma, sigma=sigma, use_cross_timestep=True)


def test_the_frame_rate_of_each_sample_sets_its_positions(transformer: Any) -> None:
    given = _inputs(transformer)
    slow, fast = (_predict(transformer, given, fps=rate)[0] for rate in (8.0, 30_000 / 1001))
    mixed = _predict(transformer, given, fps=torch.tensor([8.0, 30_000 / 1001]))[0]
    assert_alike(mixed[0], slow[0], terms_of(transformer))
    assert_alike(mixed[1], fast[1], terms_of(transformer))
    assert not torch.allclose(slow, fast, atol=1e-4)


def test_video_alone_is_the_isolated_video_stream(transformer: Any) -> None:
    install_cross_modulation(transformer)
    given = _inputs(transformer)
    sigma = torch.tensor([300.0, 800.0])
    expected, _ = _bare(
        transformer,
        given,
        25.0,
        timestep=sigma,
        sigma=sigma,
        isolate_modalities=True,
        use_cross_timestep=True,
    )
    without = dict.fromkeys(("audio", "audio_times", "audio_sigma"))
    video, audio = _predict(transformer, given | without, **without)
    assert audio is None
    assert_alike(video, expected, terms_of(transformer))
    assert not torch.allclose(video, _predict(transformer, given)[0], atol=1e-5)
    with pytest.raises(ValueError, match="are given together or all None"):
        _predict(transformer, given | {"audio": None})


def test_gradients_reach_the_weights_through_checkpointing(transformer: Any) -> None:
    install_cross_modulation(transformer)
    weight = transformer.transformer_blocks[0].audio_to_video_attn.to_q.weight.requires_grad_()
    given = _inputs(transformer)
    more = {name: torch.tensor([0.3, 0.8]) for name in ("video_times", "video_sigma")}
    more |= {name: torch.tensor([0.6, 0.1]) for name in ("audio_times", "audio_sigma")}
    gradients = []
    for checkpointing in (False, True):
        transformer.train()
        transformer.gradient_checkpointing = checkpointing
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        video, audio = predict_velocity(transformer, **given, **more, fps=25.0)
        assert audio is not None
        (gradient,) = torch.autograd.grad(video.square().mean() + audio.square().mean(), weight)
        gradients.append(gradient)
    assert gradients[0].abs().max() > 0
    # Backwards the chain is walked once more.
    assert_alike(*gradients, 2 * terms_of(transformer))


def test_the_stock_pipeline_samples_with_it_unchanged_but_for_the_marker(
    source: ModelSource, transformer: Any
) -> None:
    from diffusers import LTX2Pipeline

    pipeline = LTX2Pipeline.from_pretrained(source.root, transformer=transformer, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)

    def render() -> tuple[torch.Tensor, torch.Tensor]:
        result: tuple[torch.Tensor, torch.Tensor] = pipeline(
            "a red ball",
            height=64,
            width=64,
            num_frames=9,
            frame_rate=25.0,
            num_inference_steps=2,
            spatio_temporal_guidance_blocks=[1],
            max_sequence_length=128,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
        )
        return result

    stock = render()
    install_cross_modulation(transformer)
    same = all(torch.equal(a, b) for a, b in zip(stock, render(), strict=True))
    # The stock pipeline leaves the marker out, and gets it here as every caller does.
    assert same != transformer.config.use_keyframes_abs_pos_embedding


def test_it_runs_in_bf16_with_times_in_fp32(source: ModelSource, transformer: Any) -> None:
    half = load_transformer(source, torch.bfloat16, "cpu")
    install_cross_modulation(half)
    install_cross_modulation(transformer)
    given = _inputs(transformer)
    video, audio = _predict(half, {name: value.bfloat16() for name, value in given.items()})
    assert video.dtype == audio.dtype == torch.bfloat16
    expected = _predict(transformer, given)
    assert (video.float() - expected[0]).std() < 0.03 * expected[0].std()
    assert (audio.float() - expected[1]).std() < 0.03 * expected[1].std()


@pytest.mark.parametrize(("per_token", "several"), [(False, False), (True, False), (True, True)])
def test_references_are_more_tokens_at_the_places_that_they_show(
    transformer: Any, per_token: bool, several: bool
) -> None:
    """Against the model called by hand with the tokens, places and times side by side."""
    given = _inputs(transformer)
    latents = torch.randn(2, 16, 2, 1, 2, generator=torch.Generator().manual_seed(9))
    sigma = torch.tensor([0.3, 0.8])
    times = sigma[:, None].repeat(1, TOKENS)
    if per_token:
        times[:, : HEIGHT * WIDTH] = 0
    places = transformer.rope.prepare_video_coords(2, FRAMES, HEIGHT, WIDTH, "cpu", fps=25.0)
    references = [Reference(latents, spatial_factor=2, temporal_factor=2)]
    if several:
        references.append(Reference(torch.randn(2, 16, 1, HEIGHT, WIDTH)))
    beside = [reference.latents.flatten(2).transpose(1, 2) for reference in references]
    more = [reference_coords(transformer, reference, 25.0, torch.device("cpu")) for reference in references]
    install_cross_modulation(transformer)
    with torch.no_grad():
        expected, expected_sound = transformer(
            hidden_states=torch.cat([given["video"].flatten(2).transpose(1, 2), *beside], 1),
            audio_hidden_states=given["audio"],
            encoder_hidden_states=given["video_embeds"],
            audio_encoder_hidden_states=given["audio_embeds"],
            timestep=torch.cat([times, torch.zeros(2, sum(t.shape[1] for t in beside))], 1) * 1000,
            audio_timestep=sigma * 1000,
            sigma=sigma * 1000,
            audio_sigma=sigma * 1000,
            video_coords=torch.cat([places, *more], 2),
            audio_coords=transformer.audio_rope.prepare_audio_coords(2, LENGTH, "cpu"),
            use_cross_timestep=True,
            height=HEIGHT,
            width=WIDTH,
            return_dict=False,
        )
    video, audio = _predict(
        transformer, given, references=references, video_times=times if per_token else sigma
    )
    assert torch.equal(video.flatten(2).transpose(1, 2), expected[:, :TOKENS])
    assert torch.equal(audio, expected_sound)
    without, _ = _predict(transformer, given, video_times=times if per_token else sigma)
    assert not torch.allclose(video, without)


@pytest.mark.parametrize("referred", [False, True])
def test_the_first_latent_frame_of_the_target_alone_is_marked(transformer: Any, referred: bool) -> None:
    given = _inputs(transformer)
    install_cross_modulation(transformer)
    seen: dict[str, torch.Tensor] = {}
    transformer.proj_in.register_forward_hook(lambda _, args, output: seen.update(projected=output))
    transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(entered=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    references = [Reference(torch.randn(2, 16, 2, HEIGHT, WIDTH))] if referred else []
    _predict(transformer, given, references=references)
    added = seen["entered"] - seen["projected"]
    assert added.shape[1] == TOKENS + (2 * HEIGHT * WIDTH if referred else 0)
    first, others = added[:, : HEIGHT * WIDTH], added[:, HEIGHT * WIDTH :]
    assert not others.any()
    if transformer.config.use_keyframes_abs_pos_embedding:
        assert torch.equal(
            seen["entered"][:, : HEIGHT * WIDTH],
            seen["projected"][:, : HEIGHT * WIDTH] + transformer.keyframes_abs_pos_embedding,
        )
        assert first.abs().max() > 0.1
    else:
        assert not first.any()


@pytest.mark.parametrize(
    ("factor", "frames"),
    [
        (1, [[0, 1], [1, 9], [9, 17]]),
        (2, [[0, 1], [1, 17], [17, 33]]),
        (3, [[0, 1], [1, 25], [25, 49]]),
    ],
)
@pytest.mark.parametrize("fps", [24.0, torch.tensor([24.0, 50.0])], ids=["one-rate", "a-rate-a-sample"])
def test_a_reference_of_fewer_frames_shows_the_frames_that_it_was_made_of(
    transformer: Any, factor: int, frames: list[list[int]], fps: float | torch.Tensor
) -> None:
    """The causal first latent is one frame of the video, whatever the factor (ltx2-facts section 6)."""
    rate = fps.view(-1, 1, 1) if isinstance(fps, torch.Tensor) else fps
    reference = Reference(torch.zeros(2, 16, 3, 1, 2), spatial_factor=2, temporal_factor=factor)
    coords = reference_coords(transformer, reference, rate, torch.device("cpu"))
    expected = torch.tensor(frames).repeat_interleave(2, 0).double() / (
        rate.double() if isinstance(rate, torch.Tensor) else rate
    )
    # A product, a quotient and a difference in float32.
    rounding = 4 * torch.finfo(torch.float32).eps * float(expected.max())
    assert (coords[:, 0].double() - expected).abs().max() <= rounding
    assert coords[0, 1].tolist() == [[0, 64]] * 6
    assert coords[0, 2].tolist() == [[0, 64], [64, 128]] * 3


@pytest.mark.parametrize("frame", [1, 12, 24])
def test_a_keyframe_is_where_diffusers_places_one(transformer: Any, frame: int) -> None:
    """`LTX2ConditionPipeline`, which is checked against the reference, for a picture at a frame's index."""
    from diffusers import LTX2ConditionPipeline

    pipeline = SimpleNamespace(
        transformer_spatial_patch_size=1,
        transformer_temporal_patch_size=1,
        vae_temporal_compression_ratio=8,
        vae_spatial_compression_ratio=32,
    )
    expected = LTX2ConditionPipeline._prepare_keyframe_coords(
        pipeline, 1, HEIGHT, WIDTH, frame, num_pixel_frames=1, fps=24.0, device=torch.device("cpu")
    )
    keyframe = Reference(torch.zeros(1, 16, 1, HEIGHT, WIDTH), frame=frame)
    found = reference_coords(transformer, keyframe, 24.0, torch.device("cpu"))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("before", [True, False], ids=["before", "aligned"])
def test_a_sound_given_beside_is_more_tokens_at_its_own_times(transformer: Any, before: bool) -> None:
    """Against the model called by hand. 3 latents begin at 0, 10 and 50 ms and end at 90 ms: or at -40 ms."""
    given = _inputs(transformer)
    voice = SoundReference(torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(9)), before)
    places = sound_reference_coords(transformer, voice, torch.device("cpu"))
    late = torch.tensor(0.09 + 0.04 if before else 0.0)
    times = torch.tensor([[0.0, 0.01], [0.01, 0.05], [0.05, 0.09]]) - late
    assert torch.allclose(places, times.expand(2, 1, -1, -1), atol=1e-6)
    sigma = torch.tensor([0.3, 0.8])
    install_cross_modulation(transformer)
    with torch.no_grad():
        expected = transformer(
            hidden_states=given["video"].flatten(2).transpose(1, 2),
            audio_hidden_states=torch.cat([given["audio"], voice.latents], 1),
            encoder_hidden_states=given["video_embeds"],
            audio_encoder_hidden_states=given["audio_embeds"],
            timestep=sigma * 1000,
            audio_timestep=torch.cat([sigma[:, None].expand(-1, LENGTH), torch.zeros(2, 3)], 1) * 1000,
            sigma=sigma * 1000,
            audio_sigma=sigma * 1000,
            video_coords=transformer.rope.prepare_video_coords(2, FRAMES, HEIGHT, WIDTH, "cpu", fps=25.0),
            audio_coords=torch.cat(
                [transformer.audio_rope.prepare_audio_coords(2, LENGTH, "cpu"), places], 2
            ),
            use_cross_timestep=True,
            height=HEIGHT,
            width=WIDTH,
            return_dict=False,
        )
    video, audio = _predict(transformer, given, sound_reference=voice)
    assert torch.equal(video.flatten(2).transpose(1, 2), expected[0])
    assert torch.equal(audio, expected[1][:, :LENGTH])
    without = _predict(transformer, given)
    assert not torch.allclose(audio, without[1])
