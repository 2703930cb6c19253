"""Latents against diffusers' own encode and decode, and the mel front end against the reference's figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import LTX2Pipeline

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.files import loading
from ltxcore.models.files.source import ModelSource, prepare_model
from ltxcore.models.vae.audio_latents import audio_latent_length, encode_audio
from ltxcore.models.vae.mel import log_mel
from ltxcore.models.vae.video_latents import encode_video
from tests.rounding import assert_alike


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return prepare_model(ModelSettings(), tmp_path_factory.mktemp("models"))


def _tones(duration_s: float) -> torch.Tensor:
    t = torch.arange(round(duration_s * 16_000), dtype=torch.float32) / 16_000
    left = 0.5 * torch.sin(2 * math.pi * 440 * t)
    return torch.stack([left, 0.25 * torch.sin(2 * math.pi * 3000 * t)])


def test_the_spectrogram_is_the_references() -> None:
    mel = log_mel(_tones(0.5)[None])
    assert mel.shape == (1, 2, 51, 64)
    assert mel.mean().item() == pytest.approx(-9.443269, abs=1e-4)
    assert mel.std().item() == pytest.approx(3.079668, abs=1e-4)
    assert mel[0, :, 25].argmax(dim=-1).tolist() == [8, 43]
    assert mel[0, :, 25].amax(dim=-1).tolist() == pytest.approx([1.08576, -0.78235], abs=1e-5)
    assert log_mel(_tones(0.5)[None], n_mels=16).shape == (1, 2, 51, 16)
    with pytest.raises(ValueError, match="needs more than 512 samples; found 512"):
        log_mel(torch.zeros(1, 2, 512))


def test_video_latents_are_the_pipelines_and_turn_back_exactly(tiny: ModelSource) -> None:
    vae = loading.load_video_vae(tiny, torch.float32, "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (17, 64, 96, 3), dtype=np.uint8)
    latents = encode_video(vae, frames)
    assert latents.shape == (16, 3, 2, 3)
    assert latents.dtype == torch.bfloat16

    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        mode = vae.encode(pixels).latent_dist.mode()
    expected = LTX2Pipeline._normalize_latents(mode, vae.latents_mean, vae.latents_std)
    assert torch.equal(latents, expected[0].bfloat16())
    back = LTX2Pipeline._denormalize_latents(expected, vae.latents_mean, vae.latents_std)
    assert_alike(back, mode, 4)
    # The statistics are not those of the class, and fit: a forgotten normalisation would show.
    assert 0.3 < latents.float().std() < 3
    assert not torch.allclose(latents.float(), mode[0], atol=0.1)


def test_the_first_latent_frame_does_not_depend_on_later_frames(tiny: ModelSource) -> None:
    vae = loading.load_video_vae(tiny, torch.float32, "cpu")
    frames = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(encode_video(vae, frames)[:, :1], encode_video(vae, frames[:1]))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10, 32, 32, 3), r"8n \+ 1 frames of sizes that 32 divides; found 10 frames of 32x32"),
        ((9, 32, 40, 3), "found 9 frames of 40x32"),
        ((9, 3, 32, 32), r"must be uint8 \[F, H, W, 3\]; found torch.uint8 \[9, 3, 32, 32\]"),
    ],
)
def test_frames_that_the_vae_cannot_encode_are_refused(
    tiny: ModelSource, shape: tuple[int, ...], message: str
) -> None:
    vae = loading.load_video_vae(tiny, torch.float32, "cpu")
    with pytest.raises(ValueError, match=message):
        encode_video(vae, torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("duration_s", "length"), [(0.0, 1), (0.04, 1), (0.68, 17), (57 / 25, 57), (5.0, 125), (121 / 24, 126)]
)
def test_a_clips_sound_has_the_pipelines_length(tiny: ModelSource, duration_s: float, length: int) -> None:
    assert audio_latent_length(duration_s) == length
    audio_vae = loading.load_audio_vae(tiny, torch.float32, "cpu")
    assert encode_audio(audio_vae, _tones(duration_s), length).shape == (length, 8)


def test_audio_latents_are_what_the_pipeline_decodes(tiny: ModelSource) -> None:
    audio_vae = loading.load_audio_vae(tiny, torch.float32, "cpu")
    sound = _tones(5.0)
    with torch.no_grad():
        mode = audio_vae.encode(log_mel(sound[None], n_mels=16)).latent_dist.mode()
    assert mode.shape == (1, 2, 126, 4)  # one more than the clip's 125

    latents = encode_audio(audio_vae, sound, 125)
    assert latents.dtype == torch.bfloat16
    packed = LTX2Pipeline._pack_audio_latents(mode)
    expected = LTX2Pipeline._normalize_audio_latents(packed, audio_vae.latents_mean, audio_vae.latents_std)
    assert torch.equal(latents, expected[0, :125].bfloat16())
    # As the pipeline does before it decodes.
    back = LTX2Pipeline._denormalize_audio_latents(expected, audio_vae.latents_mean, audio_vae.latents_std)
    back = LTX2Pipeline._unpack_audio_latents(back, 126, num_mel_bins=4)
    assert_alike(back, mode, 4)


def test_sound_that_does_not_fit_is_refused(tiny: ModelSource) -> None:
    audio_vae = loading.load_audio_vae(tiny, torch.float32, "cpu")
    with pytest.raises(ValueError, match="16000 samples give 26 audio latents, but the clip has 50"):
        encode_audio(audio_vae, _tones(1.0), 50)
    with pytest.raises(ValueError, match=r"takes stereo \[2, N\]; found \[1, 16000\]"):
        encode_audio(audio_vae, torch.zeros(1, 16_000), 25)
