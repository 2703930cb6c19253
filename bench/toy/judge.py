"""Measures the toy: how often colour, direction and pitch are those of the caption.

    python -m bench.toy.judge [--lora FILE] [--pictures FILE] [--prompts N]

Figures come last. Renders through the project's own renderer, with guidance and seeds as a recipe gives them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from bench.toy.captions import describe
from bench.toy.content import Content, measure_content
from ltxcore.config.model_settings import TOY_MODEL, ModelSettings
from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.media.moving_shapes import COLOURS, FRAMES, RATE, SHAPES, TONES, WAYS
from ltxcore.models.files.loading import load_text_encoder
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.text.caption_encoder import CaptionEncoder, load_feature_extractor
from ltxcore.store.fingerprint import derive_seed
from ltxcore.validation.components import load_components
from ltxcore.validation.render import Renderer
from ltxcore.validation.rendering_settings import Frames, Rendering, render_settings

SAMPLING = ValidationSettings(
    validation_resolution="96x96",
    validation_num_video_frames=FRAMES,
    validation_frame_rate=RATE,
    validation_num_inference_steps=12,
    validation_guidance=3.0,
    validation_audio_guidance=3.0,
    validation_stg_scale=0,
    validation_modality_scale=1,
    validation_guidance_rescale=0,
)


class Painter:
    """Renders captions with one model, base or LoRA."""

    def __init__(self, source: ModelSource, sampling: ValidationSettings = SAMPLING) -> None:
        tokenizer, text_model = load_text_encoder(source, torch.float32, "cpu")
        extractor = load_feature_extractor(source, torch.float32, "cpu")
        self._encoder = CaptionEncoder(tokenizer, text_model, extractor, source.text_max_tokens)
        self.renderer = Renderer(load_components(source, torch.float32, "cpu"), render_settings(sampling))

    def draw(self, name: str, caption: str) -> Rendering:
        """Render one caption; the name decides the noise."""
        wanted, nothing = self._encoder.encode([caption, ""])
        return self.renderer.render(name, wanted, nothing)


def content_of(rendering: Rendering) -> Content:
    return measure_content(rendering.frames, rendering.audio, rendering.sample_rate)


def sheet(clips: list[Frames], file: Path, scale: int = 1) -> None:
    """Write a picture with one clip a row, five of its frames side by side."""
    from PIL import Image

    rows = [np.concatenate(list(frames[:: max(1, len(frames) // 4)]), axis=1) for frames in clips]
    image = Image.fromarray(np.concatenate(rows, axis=0))
    image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS).save(file)


def judge(painter: Painter, count: int, pictures: Path | None) -> dict[str, float]:
    """Share of right colours, directions and pitches over `count` captions drawn at random."""
    rng = np.random.default_rng(derive_seed(0, "toy", "judge"))
    right = {"colour": 0, "direction": 0, "pitch": 0}
    shown = []
    for number in range(count):
        names = (list(COLOURS), SHAPES, list(WAYS), list(TONES))
        colour, shape, way, tone = (words[rng.integers(len(words))] for words in names)
        caption = describe(colour, shape, way, tone)
        rendering = painter.draw(f"judge-{number}", caption)
        found = content_of(rendering)
        right["colour"] += found.colour == colour
        right["direction"] += found.way == way
        right["pitch"] += found.tone == tone
        shown.append(rendering.frames)
        print(f"{caption:60} {found.colour} {found.rgb} {found.way} {found.pitch_hz} Hz", flush=True)
    if pictures is not None:
        sheet(shown, pictures)
    return {name: hits / count for name, hits in right.items()}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", default=TOY_MODEL)
    words.add_argument("--lora", type=Path)
    words.add_argument("--pictures", type=Path)
    words.add_argument("--prompts", type=int, default=40)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as models:
        source = resolve_model(ModelSettings(pretrained_model_name_or_path=given.model), Path(models))
        painter = Painter(source)
        began = time.monotonic()
        with painter.renderer.adapter(given.lora) if given.lora else nullcontext():
            shares = judge(painter, given.prompts, given.pictures)
        seconds = (time.monotonic() - began) / given.prompts
    listed = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    print(f"{given.prompts} prompts right: {listed}; {seconds:.2f} s a prompt")


if __name__ == "__main__":
    main()
