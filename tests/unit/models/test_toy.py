"""The toy LTX-2 as it is shipped: small, a checkpoint like any other, and it draws what a caption says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.toy.content import Content, measure_content
from bench.toy.judge import Painter, content_of
from ltxcore.config.model_settings import TOY_MODEL, ModelSettings
from ltxcore.media import glimmer
from ltxcore.media.moving_shapes import COLOURS, FRAMES, RATE, TONES, WAYS, MovingShape
from ltxcore.models.files.loading import load_audio_vae, load_video_vae, load_vocoder
from ltxcore.models.files.locate_weights import toy_directory
from ltxcore.models.files.source import ModelSource, check_model, resolve_model
from ltxcore.models.vae.audio_latents import audio_latent_length, encode_audio
from ltxcore.models.vae.video_latents import encode_videos
from ltxcore.models.versions import COMPONENTS

SECONDS = FRAMES / RATE


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    settings = ModelSettings(pretrained_model_name_or_path=TOY_MODEL)
    check_model(settings)
    return resolve_model(settings, tmp_path_factory.mktemp("models"))


def test_it_is_a_combined_checkpoint_of_a_few_megabytes(toy: ModelSource) -> None:
    assert toy.combined is not None
    assert (toy.version.name, toy.combined.storage) == ("2.0", "bf16")
    assert sum(f.stat().st_size for f in toy_directory().rglob("*") if f.is_file()) < 9.5e6
    prints = {name: toy.fingerprint(name) for name in COMPONENTS}
    assert len(set(prints.values())) == len(COMPONENTS)
    same = resolve_model(ModelSettings(pretrained_model_name_or_path=str(toy_directory())), toy.models_dir)
    assert {name: same.fingerprint(name) for name in COMPONENTS} == prints


@pytest.mark.parametrize("colour", [*COLOURS.values(), glimmer.PURPLE])
def test_pictures_survive_the_video_vae(toy: ModelSource, colour: tuple[int, int, int]) -> None:
    vae = load_video_vae(toy, torch.float32, "cpu")
    clips = [MovingShape("circle", colour, way, None).frames(96, 96) for way in WAYS.values()]
    latents = torch.stack(encode_videos(vae, clips)).float()
    # The statistics are those of clips of all colours; one colour alone spreads less (green: 0.49).
    assert 0.4 < latents.std() < 1.6, "normalised"
    std, mean = (v.view(1, -1, 1, 1, 1) for v in (vae.latents_std, vae.latents_mean))
    drawn = vae.decode(latents * std + mean, return_dict=False)[0]
    frames = ((drawn.clamp(-1, 1) + 1) * 127.5).byte().permute(0, 2, 3, 4, 1).numpy()
    quiet = np.zeros((2, 100), np.float32)
    wanted = Content(colour, None, None)
    for way, shown in zip(WAYS, frames, strict=True):
        found = measure_content(shown, quiet, 16_000)
        assert found.way == way
        assert found.colour == wanted.colour
        assert np.abs(np.subtract(found.rgb, colour)).max() < 40


def test_tones_survive_audio_vae_and_vocoder(toy: ModelSource) -> None:
    audio_vae, vocoder = (load(toy, torch.float32, "cpu") for load in (load_audio_vae, load_vocoder))
    for hz in (*TONES.values(), glimmer.PITCH_HZ):
        sound = MovingShape("circle", (255, 0, 0), (1, 0), hz).sound(SECONDS, 16_000)
        latents = encode_audio(audio_vae, torch.from_numpy(sound), audio_latent_length(SECONDS)).float()
        assert latents.abs().mean() < 2
        packed = latents * audio_vae.latents_std + audio_vae.latents_mean
        mel = audio_vae.decode(packed.unflatten(1, (2, -1)).transpose(0, 1)[None], return_dict=False)[0]
        wave = vocoder(mel)[0].numpy()
        found = measure_content(np.zeros((1, 32, 32, 3), np.uint8), wave, 24_000).pitch_hz
        assert found is not None
        assert abs(found / hz - 1) < 0.03


def test_the_base_draws_what_the_caption_says(toy: ModelSource) -> None:
    painter = Painter(toy)
    found = content_of(painter.draw("one", "A green square moves to the right. A high tone sounds."))
    assert (found.colour, found.way, found.tone) == ("green", "right", "high")
    found = content_of(painter.draw("other", "A red circle moves up. A low tone sounds."))
    assert (found.colour, found.way, found.tone) == ("red", "up", "low")


def test_a_directory_of_that_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: ModelSource
) -> None:
    (tmp_path / TOY_MODEL).mkdir()
    monkeypatch.chdir(tmp_path)
    settings = ModelSettings(pretrained_model_name_or_path=TOY_MODEL)
    assert resolve_model(settings, tmp_path).root == toy.root
