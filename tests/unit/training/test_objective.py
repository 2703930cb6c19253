"""Noise, targets, conditioning and the masked loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltxcore.config.base import parse
from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.training.data import Batch, TrainingSample, collate
from ltxcore.training.objective import (
    Noised,
    banded,
    frozen,
    losses,
    masked_loss,
    noise_batch,
    patchify,
    unpatchify,
)


def sample(
    frames: int = 3, audio: int | None = 5, valid: int | None = None, fps: float = 25.0
) -> TrainingSample:
    return TrainingSample(
        video=torch.randn(16, frames, 2, 2),
        audio=None if audio is None else torch.randn(audio, 8),
        audio_valid=(audio or 0) if valid is None else valid,
        features=TextFeatures(video=torch.zeros(3, 48, dtype=torch.bfloat16), audio=None),
        fps=fps,
    )


def sound_alone(audio: int = 5, padding: int = 0, valid: int | None = None) -> TrainingSample:
    return replace(sample(audio=audio, valid=valid), audio_padding=padding, has_video=False)


def batch(*samples: TrainingSample) -> Batch:
    return collate([f"s{n}" for n in range(len(samples))], samples)


def settings(**changes: object) -> TrainingSettings:
    return TrainingSettings(**changes)  # type: ignore[arg-type]


def test_noise_and_velocity_follow_the_formulas() -> None:
    clips = batch(sample(), sample())
    noised = noise_batch(clips, settings(), 0).video
    start, sigma = patchify(clips.video), noised.sigma[:, None, None]
    noise = noised.target + start
    torch.testing.assert_close(noised.tokens, (1 - sigma) * start + sigma * noise)
    assert noise.std().item() == pytest.approx(1, abs=0.1)


def test_tokens_are_frame_major() -> None:
    video = torch.arange(2 * 3 * 2 * 2).reshape(1, 2, 3, 2, 2)
    assert patchify(video)[0, 4 + 2 + 1].tolist() == video[0, :, 1, 1, 1].tolist()
    assert torch.equal(unpatchify(patchify(video), like=video), video)


def test_draws_belong_to_seed_and_batch_number() -> None:
    clips = batch(sample(), sample())
    assert torch.equal(
        noise_batch(clips, settings(), 7).video.tokens, noise_batch(clips, settings(), 7).video.tokens
    )
    for other in (noise_batch(clips, settings(), 8), noise_batch(clips, settings(seed=0), 7)):
        assert not torch.equal(noise_batch(clips, settings(), 7).video.tokens, other.video.tokens)


@pytest.mark.parametrize(("sampling", "equal"), [("independent", False), ("shared", True)])
def test_sigmas_are_independent_or_shared(sampling: str, equal: bool) -> None:
    noised = noise_batch(batch(sample(), sample()), settings(sigma_sampling=sampling), 0)
    assert noised.audio is not None
    assert torch.equal(noised.video.sigma, noised.audio.sigma) is equal


def test_conditioned_tokens_stay_clean_and_leave_the_loss() -> None:
    clips = batch(sample(), sample())
    noised = noise_batch(clips, settings(ltx2_first_frame_conditioning_probability=1.0), 0).video
    assert noised.clean is not None
    assert noised.clean.sum(1).tolist() == [4, 4]
    assert torch.equal(noised.tokens[:, :4], patchify(clips.video)[:, :4])
    assert not torch.equal(noised.tokens[:, 4:], patchify(clips.video)[:, 4:])
    assert torch.equal(noised.mask, (~noised.clean).float())


def test_times_are_per_token_only_where_something_is_conditioned() -> None:
    clips = batch(sample(), sample())
    plain = noise_batch(clips, settings(), 0)
    assert plain.audio is not None
    assert torch.equal(plain.video.times, plain.video.sigma)
    conditioned = noise_batch(clips, settings(ltx2_first_frame_conditioning_probability=1.0), 0)
    assert conditioned.audio is not None
    assert not conditioned.video.times[:, :4].any()
    assert torch.equal(conditioned.video.times[:, 4:], conditioned.video.sigma[:, None].expand(2, 8))
    # Conditioning draws from its own seed: it changes neither noise levels nor sound.
    assert torch.equal(conditioned.video.sigma, plain.video.sigma)
    assert torch.equal(conditioned.audio.tokens, plain.audio.tokens)


def test_masked_loss_is_the_mean_over_what_counts() -> None:
    target = torch.randn(2, 6, 4)
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).float()
    prediction = torch.randn(2, 6, 4, requires_grad=True)
    noised = Noised(target, target, torch.ones(2), None, mask)
    loss = masked_loss(prediction, noised)
    error = (prediction - target).square()
    expected = (error[0] * mask[0, :, None]).mean() / mask[0, :, None].mean()
    torch.testing.assert_close(loss, torch.stack([expected, torch.zeros(())]))
    loss.sum().backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert not prediction.grad[1].any()
    assert not prediction.grad[0, mask[0] == 0].any()


def test_losses_are_recorded_by_bands_of_sigma() -> None:
    sigma = torch.tensor([0.0, 0.1, 0.25, 0.75, 1.0, 0.6])
    mask = torch.ones(6, 3)
    mask[5] = 0
    noised = Noised(torch.zeros(6, 3, 2), torch.zeros(6, 3, 2), sigma, None, mask)
    each = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 11.0], requires_grad=True)
    found = banded("audio", each, noised)
    assert found.pop("audio_loss_sigma_0.5_0.75").isnan(), "its only sample is masked"
    assert {name: value.item() for name, value in found.items()} == {
        "audio_loss_sigma_0_0.25": 2.0,
        "audio_loss_sigma_0.25_0.5": 5.0,
        "audio_loss_sigma_0.75_1": 8.0,
    }
    assert not any(value.requires_grad for value in found.values())


def test_bands_hold_the_losses_of_both_modalities() -> None:
    noised = noise_batch(batch(*(sample() for _ in range(12))), settings(), 0)
    assert noised.audio is not None
    found = losses(torch.zeros_like(noised.video.tokens), torch.zeros_like(noised.audio.tokens), noised)
    each = {
        "video": masked_loss(torch.zeros(1), noised.video),
        "audio": masked_loss(torch.zeros(1), noised.audio),
    }
    for modality, part in (("video", noised.video), ("audio", noised.audio)):
        inside = (part.sigma >= 0.5) & (part.sigma < 0.75)
        assert inside.any()
        torch.testing.assert_close(
            found.measures[f"{modality}_loss_sigma_0.5_0.75"], each[modality][inside].mean()
        )


def test_a_frozen_modality_is_given_at_time_zero_and_has_no_loss() -> None:
    clips = batch(sample(), sample())
    for modality, other in (("video", "audio"), ("audio", "video")):
        given = parse(ConditioningSettings, {modality: {"mode": "frozen"}}, "test")
        noised = noise_batch(clips, settings(), 0, given)
        assert noised.audio is not None
        assert clips.audio is not None
        part = getattr(noised, modality)
        latents = patchify(clips.video) if modality == "video" else clips.audio
        assert torch.equal(part.tokens, latents)
        assert part.times.shape == (2,)
        assert not part.times.any()
        assert part.clean is not None
        assert part.clean.all()
        found = losses(torch.ones_like(noised.video.tokens), torch.ones_like(noised.audio.tokens), noised)
        assert getattr(found, modality) is None
        assert found.total.item() == getattr(found, other).item() > 0
        assert not any(name.startswith(modality) for name in found.measures)


def test_what_is_frozen_altogether_has_no_loss_to_give() -> None:
    clips = batch(sample(audio=None))
    given = parse(ConditioningSettings, {"video": {"mode": "frozen"}}, "test")
    noised = noise_batch(clips, settings(), 0, given)
    with pytest.raises(ValueError, match="generated"):
        losses(torch.zeros_like(noised.video.tokens), None, noised)
    assert frozen(torch.ones(1, 2, 3)).mask.sum() == 0


def test_total_is_video_plus_audio_and_padding_counts_for_nothing() -> None:
    clips = batch(sample(), sample(audio=3), sample(valid=2))
    assert clips.audio_mask is not None
    assert clips.audio_mask.sum(1).tolist() == [5, 3, 2]
    noised = noise_batch(clips, settings(), 0)
    assert noised.audio is not None
    video, audio = torch.randn_like(noised.video.tokens), noised.audio.target.clone()
    audio[clips.audio_mask == 0] += 100
    result = losses(video, audio, noised)
    assert result.audio is not None
    assert result.audio.item() == 0
    assert result.total.item() == result.video.item() > 0


def test_without_sound_there_is_no_audio_loss() -> None:
    clips = batch(sample(audio=None), sample(audio=None))
    noised = noise_batch(clips, settings(), 0)
    assert noised.audio is None
    assert losses(torch.randn_like(noised.video.tokens), None, noised).audio is None


def test_a_silent_clip_among_others_is_masked() -> None:
    clips = batch(sample(), sample(audio=None))
    assert clips.audio is not None
    assert clips.audio_mask is not None
    assert not clips.audio[1].any()
    assert clips.audio_mask.sum(1).tolist() == [5, 0]


def test_samples_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in"):
        batch(sample(), sample(frames=2))
    with pytest.raises(ValueError, match="differ in"):
        batch(sample(), sample(fps=30.0))
    with pytest.raises(ValueError, match="audio_valid is 9"):
        batch(sample(valid=9))


def test_sound_alone_has_no_loss_of_its_zeros() -> None:
    sounds = batch(sound_alone(), sound_alone())
    noised = noise_batch(sounds, settings(ltx2_first_frame_conditioning_probability=1.0), 0)
    assert not noised.has_video
    assert noised.video.mask.sum() == 0
    assert noised.video.clean is None
    assert noised.audio is not None
    found = losses(torch.zeros_like(noised.video.tokens), torch.zeros_like(noised.audio.tokens), noised)
    assert found.video is None
    assert found.audio is not None
    assert torch.equal(found.total, found.audio)


def test_sound_alone_draws_its_level_from_its_own_length() -> None:
    sounds = batch(sound_alone(audio=200))
    shared, apart = (
        noise_batch(sounds, settings(sigma_sampling=sampling), 3).audio
        for sampling in ("shared", "independent")
    )
    assert shared is not None
    assert apart is not None
    assert torch.equal(shared.sigma, apart.sigma)


def test_padding_on_both_sides_of_the_sound_is_masked() -> None:
    clips = batch(sound_alone(audio=6, padding=2, valid=5), sound_alone(audio=4))
    assert clips.audio_mask is not None
    assert clips.audio_mask.tolist() == [[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]
    with pytest.raises(ValueError, match="audio_padding is 4 and audio_valid is 3"):
        batch(sound_alone(padding=4, valid=3))


def test_sound_alone_and_clips_do_not_share_a_batch() -> None:
    with pytest.raises(ValueError, match="has pictures"):
        batch(sound_alone(), sample())
