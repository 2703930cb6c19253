"""Pictures or sound rendered alone: what is made, that it sees nothing of the other, and what is shown."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ltxcore.models.files.source import ModelSource
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.validation.components import Components, load_components
from ltxcore.validation.contact_sheet import write_contact_sheet
from ltxcore.validation.gallery import write_poster
from ltxcore.validation.metrics import measure
from ltxcore.validation.render import Renderer
from ltxcore.validation.rendering_settings import Modality, Rendering
from ltxcore.validation.sound_picture import HEIGHT_PX, WIDTH_PX, pictured
from ltxcore.validation.video_file import write_video
from tests.unit.validation.test_given_tokens import PLAN
from tests.unit.validation.test_render import features_of


def rendered(components: Components, texts: list[TextFeatures], modality: Modality) -> Rendering:
    return Renderer(components, PLAN).render("name", *texts, plan=PLAN.of(modality))


@pytest.mark.parametrize("version", ["2.0", "2.3", "2.5"])
@pytest.mark.parametrize(
    ("modality", "other_stream", "made", "absent"),
    [("audio", "proj_in", "audio", "frames"), ("video", "audio_proj_in", "frames", "audio")],
)
def test_one_modality_alone_sees_nothing_of_the_other(
    version: str,
    modality: Modality,
    other_stream: str,
    made: str,
    absent: str,
    tinies: dict[str, ModelSource],
) -> None:
    texts = list(features_of(tinies[version]).values())
    components = load_components(tinies[version], torch.float32, "cpu")
    before = {name: rendered(components, texts, name) for name in ("both", modality)}
    assert getattr(before[modality], absent).size == 0
    weight = getattr(components.transformer, other_stream).weight
    with torch.no_grad():
        weight.mul_(3)
    after = {name: rendered(components, texts, name) for name in ("both", modality)}
    assert np.array_equal(getattr(before[modality], made), getattr(after[modality], made))
    assert np.std(getattr(before[modality], made)) > 1e-5
    assert not np.array_equal(getattr(before["both"], made), getattr(after["both"], made))


def tone(seconds: float = 2.0, rate: int = 24000) -> Rendering:
    times = np.arange(round(seconds * rate)) / rate
    sound = np.stack([0.5 * np.sin(2 * np.pi * 3000 * times)] * 2).astype(np.float32)
    return Rendering("hum", np.zeros((0, 64, 64, 3), np.uint8), sound, 25.0, rate, 1, 0.1)


def streams(path: Path) -> dict[str, Any]:
    shown = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(path)], check=True, capture_output=True
    )
    return {stream["codec_type"]: stream for stream in json.loads(shown.stdout)["streams"]}


def test_a_sound_is_shown_by_its_spectrogram_and_plays_whole(tmp_path: Path) -> None:
    write_video(tmp_path / "hum.mp4", tone())
    found = streams(tmp_path / "hum.mp4")
    assert (found["video"]["width"], found["video"]["height"]) == (WIDTH_PX, HEIGHT_PX)
    assert float(found["audio"]["duration"]) == pytest.approx(2.0, abs=0.05)
    write_poster(tmp_path / "hum.jpg", tone())
    picture = np.asarray(Image.open(tmp_path / "hum.jpg").convert("L")).astype(float)
    inner = picture[20:-60, 120:-40]
    brightest = inner.mean(axis=1).argmax() / len(inner)
    # 3 of 12 kHz from the bottom.
    assert brightest == pytest.approx(0.75, abs=0.06)
    write_contact_sheet(tmp_path / "sheet.png", [[("Base", tone()), ("LoRA", tone())]], "sounds")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    bright = (sheet.min(axis=2) < 120) & (sheet[..., 0] > 180)
    assert bright.sum() > 200, "the tone is a bright line in both strips"


def test_pictures_alone_have_no_sound_track(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
    silent = replace(tone(), frames=frames, audio=np.zeros((2, 0), np.float32))
    write_video(tmp_path / "a.mp4", silent)
    assert set(streams(tmp_path / "a.mp4")) == {"video"}
    found = measure(silent)
    assert found.audio_rms_dbfs is None
    assert "silent" not in found.flags
    assert found.motion


def test_measures_of_a_sound_alone_say_nothing_of_pictures() -> None:
    found = measure(tone())
    assert (found.brightness, found.motion, found.flags) == (None, None, ())
    assert found.audio_centroid_hz == pytest.approx(3000, abs=30)


def test_nothing_at_all_cannot_be_shown() -> None:
    with pytest.raises(ValueError, match="neither pictures nor sound"):
        pictured(replace(tone(), audio=np.zeros((2, 0), np.float32)))
