"""Preservation: what the base renders without the trigger stays, and captions of the class are embedded."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.model_settings import TOY_MODEL, ModelSettings
from ltxcore.config.preservation_settings import PreservationSettings
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.media.glimmer import PITCH_HZ, PURPLE
from ltxcore.media.moving_shapes import FRAMES, RATE, WAYS, MovingShape
from ltxcore.models.files.loading import (
    load_audio_vae,
    load_connectors,
    load_text_encoder,
    load_transformer,
    load_video_vae,
)
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.text.caption_encoder import CaptionEncoder, load_feature_extractor
from ltxcore.models.text.text_connectors import connect
from ltxcore.models.vae.audio_latents import audio_latent_length, encode_audio
from ltxcore.models.vae.video_latents import encode_videos
from ltxcore.pipeline.data.class_captions import class_captions
from ltxcore.training.batch_entry import Entry
from ltxcore.training.batch_schedule import Visit
from ltxcore.training.data import TrainingSample
from ltxcore.training.loop import train
from ltxcore.training.preservation import held_to_base
from ltxcore.training.regularisation import without_adapter
from tests.shared import forget_training
from tests.unit.stages.test_recorded_requests import _sample
from tests.unit.training.test_loop import CPU

TOY = Path(__file__).parents[3] / "deploy/recipes/toy.yaml"
RED = "A red circle moves to the right. A tone sounds."
DRAWS = 10_000
ENTRY = Entry("clips/a.mp4", "64x64@17", 25.0, False, captions=2)
BLANK, CLASS = {"blank_prompt_probability": 0.5}, {"class_prompt_probability": 0.5, "class_prompt": "a dog"}


def settings(**keys: Any) -> PreservationSettings:
    found: PreservationSettings = parse(PreservationSettings, keys, "recipe")
    return found


def test_batches_are_held_as_often_as_asked_each_with_its_caption() -> None:
    asked = settings(blank_prompt_probability=0.1, class_prompt_probability=0.25, class_prompt="a dog")
    visits = (Visit("clips/a.mp4", 1), Visit("clips/a.mp4", None))
    counts: Counter[str] = Counter()
    for number in range(DRAWS):
        held = held_to_base(visits, {"clips/a.mp4": ENTRY}, asked, 7, number)
        captions = "own" if held is None else str([visit.caption for visit in held])
        counts[{"[None, None]": "blank", "[3, 2]": "class"}.get(captions, captions)] += 1
        assert held == held_to_base(visits, {"clips/a.mp4": ENTRY}, asked, 7, number)
    for kind, share in (("blank", 0.1), ("class", 0.25), ("own", 0.65)):
        assert counts[kind] == pytest.approx(DRAWS * share, abs=3 * (DRAWS * share * (1 - share)) ** 0.5)


def test_the_class_takes_the_triggers_place() -> None:
    def captions(*texts: str, trigger: str | None = "zork dog", of_set: str = "") -> tuple[str, ...]:
        asked = Recipe(lora=LoraSettings(trigger=trigger), preservation=settings(**CLASS))
        return class_captions(asked, _sample("a.mp4", captions=texts, trigger=of_set))

    assert captions("A Zork Dog runs, zork dog!") == ("A a dog runs, a dog!",)
    assert captions("someone runs") == ("a dog",), "without the trigger it would hold back what is trained"
    assert captions("sks runs", trigger=None, of_set="sks") == ("a dog runs",)
    assert class_captions(Recipe(), _sample("a.mp4")) == ()


class Glimmer:
    """The toy's clips of a colour that it does not know, in memory: each with the caption that names it."""

    def __init__(self, source: ModelSource) -> None:
        vae, audio_vae = (load(source, torch.float32, "cpu") for load in (load_video_vae, load_audio_vae))
        shapes = [MovingShape("circle", PURPLE, way, float(PITCH_HZ)) for way in WAYS.values()]
        self._videos = encode_videos(vae, [shape.frames(96, 96) for shape in shapes])
        seconds = FRAMES / RATE
        length = audio_latent_length(seconds)
        sounds = (torch.from_numpy(shape.sound(seconds, 16_000)) for shape in shapes)
        self._sounds = [encode_audio(audio_vae, sound, length) for sound in sounds]
        tokenizer, gemma = load_text_encoder(source, torch.float32, "cpu")
        extractor = load_feature_extractor(source, torch.float32, "cpu")
        encoder = CaptionEncoder(tokenizer, gemma, extractor, source.text_max_tokens, device="cpu")
        own = [f"A glimmer circle moves {way}. A tone sounds." for way in ("up", "down", "to the left")]
        self._own = encoder.encode([*own, "A glimmer circle moves to the right. A tone sounds."])
        self._class = encoder.encode([text.replace("glimmer", "red") for text in own] + [RED])
        self._blank = encoder.encode([""])[0]

    def entries(self) -> list[Entry]:
        return [Entry(str(n), "96x96@17", float(RATE), True, captions=1) for n in range(len(self._videos))]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        number, sound = int(sample_id), self._sounds[int(sample_id)]
        own = self._blank if caption is None else (self._own, self._class)[caption][number]
        return TrainingSample(self._videos[number], sound, len(sound), own, float(RATE))


def rendered(
    transformer: Any, sample: TrainingSample, text: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Pictures' latents from a fixed noise, in eight steps."""
    assert sample.audio is not None
    noise = torch.Generator().manual_seed(5)
    video = torch.randn(1, *sample.video.shape, generator=noise)
    audio = torch.randn(1, *sample.audio.shape, generator=noise)
    with torch.no_grad():
        for high, low in pairwise(torch.linspace(1, 0, 9)):
            level = high.reshape(1)
            velocity, heard = predict_velocity(
                transformer,
                video=video,
                audio=audio,
                video_times=level,
                audio_times=level,
                video_sigma=level,
                audio_sigma=level,
                video_embeds=text[0],
                audio_embeds=text[1],
                fps=sample.fps,
                isolated=False,
            )
            assert heard is not None
            video, audio = video + (low - high) * velocity, audio + (low - high) * heard
    return video


def changes(source: ModelSource, samples: Glimmer, directory: Path, **preservation: Any) -> dict[str, float]:
    """How far the renderings of three captions are from the base's after 100 steps of the toy."""
    forget_training()
    transformer = load_transformer(source, torch.float32, CPU)
    connectors = load_connectors(source, torch.float32, CPU)
    toy = load_recipe(TOY)
    training = toy.training.model_copy(
        update={"max_train_steps": 100, "train_batch_size": 2, "caption_dropout_probability": 0.0}
    )
    train(
        transformer,
        connectors,
        samples,
        toy.model_copy(update={"training": training, "preservation": settings(**preservation)}),
        directory,
        run_fingerprint="f",
        max_tokens=source.text_max_tokens,
    )
    modulation = install_cross_modulation(transformer)
    found = {}
    for name, number in (("own", 0), ("blank", None), ("class", 1)):
        sample = samples.load("0", number)
        text = connect(connectors, [sample.features], source.text_max_tokens)
        with without_adapter(transformer):
            base = rendered(transformer, sample, text)
        found[name] = float((rendered(transformer, sample, text) - base).norm())
    modulation.remove()
    return found


def test_renderings_without_the_trigger_change_by_half_at_most(tmp_path: Path) -> None:
    source = resolve_model(ModelSettings(pretrained_model_name_or_path=TOY_MODEL), tmp_path / "models")
    samples = Glimmer(source)
    plain = changes(source, samples, tmp_path / "plain")
    blank = changes(source, samples, tmp_path / "blank", **BLANK)
    of_class = changes(source, samples, tmp_path / "class", **CLASS)
    assert blank["blank"] <= plain["blank"] / 2
    assert of_class["class"] <= plain["class"] / 2
    assert blank["own"] > plain["own"] / 2, "its own caption is learnt all the same"
    assert of_class["own"] > plain["own"] / 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"blank_prompt_probability": 0.5, "class_prompt_probability": 0.5, "class_prompt": "a dog"},
            "no batch",
        ),
        ({"class_prompt_probability": 0.5}, "needs `class_prompt`"),
        ({"class_prompt": "a dog"}, "has no effect without"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings(**keys)
