"""Latents and text features of the toy's training clips, made once and kept in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bench.toy.captions import captioned
from ltxcore.media.moving_shapes import FRAMES, RATE
from ltxcore.models.text.caption_encoder import CaptionEncoder, TextFeatures
from ltxcore.models.vae.audio_latents import audio_latent_length, encode_audio
from ltxcore.models.vae.video_latents import encode_videos
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.data import TrainingSample

CLIPS = 4096
DURATION_S = FRAMES / RATE
AT_ONCE = 16


@dataclass(frozen=True)
class Pool:
    """The training set in memory, by size of the pictures."""

    samples: dict[tuple[int, int], list[TrainingSample]]
    empty: TextFeatures
    """The features of no caption."""

    def batch(self, rng: np.random.Generator, count: int, dropout: float) -> list[TrainingSample]:
        """`count` samples of one size, each with its caption or, by chance, none."""
        sizes = list(self.samples)
        shares = np.array([len(self.samples[size]) for size in sizes], float)
        of_size = self.samples[sizes[rng.choice(len(sizes), p=shares / shares.sum())]]
        chosen = [of_size[number] for number in rng.integers(len(of_size), size=count)]
        return [self._without_text(s) if rng.random() < dropout else s for s in chosen]

    def _without_text(self, sample: TrainingSample) -> TrainingSample:
        return TrainingSample(sample.video, sample.audio, sample.audio_valid, self.empty, sample.fps)


def encode_pool(vae: Any, audio_vae: Any, encoder: CaptionEncoder, file: Path, count: int = CLIPS) -> Pool:
    """Draw and encode the clips as the pipeline's own stages would, or read what was encoded before."""
    if not file.is_file():
        _encode(vae, audio_vae, encoder, file, count)
    return _read(file)


def _encode(vae: Any, audio_vae: Any, encoder: CaptionEncoder, file: Path, count: int) -> None:
    rng = np.random.default_rng(derive_seed(0, "toy", "clips"))
    drawn = sorted((captioned(rng) for _ in range(count)), key=lambda each: each.size)
    tensors: dict[str, torch.Tensor] = {"empty": encoder.encode([""])[0].video}
    length = audio_latent_length(DURATION_S)
    sizes: dict[str, tuple[int, int]] = {}
    for first in range(0, count, AT_ONCE):
        group = drawn[first : first + AT_ONCE]
        for size in sorted({each.size for each in group}):
            same = [(number, each) for number, each in enumerate(group, first) if each.size == size]
            videos = encode_videos(vae, [each.clip.frames(*size) for _, each in same])
            for (number, each), video in zip(same, videos, strict=True):
                sound = torch.from_numpy(each.clip.sound(DURATION_S, 16_000))
                tensors[f"video.{number}"] = video
                tensors[f"audio.{number}"] = encode_audio(audio_vae, sound, length)
                tensors[f"text.{number}"] = encoder.encode([each.caption])[0].video
                sizes[str(number)] = size
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, {"sizes": json.dumps(sizes)})


def _read(file: Path) -> Pool:
    samples: dict[tuple[int, int], list[TrainingSample]] = {}
    with safe_open(file, framework="pt") as stored:
        for number, (width, height) in json.loads(stored.metadata()["sizes"]).items():
            audio = stored.get_tensor(f"audio.{number}")
            samples.setdefault((width, height), []).append(
                TrainingSample(
                    video=stored.get_tensor(f"video.{number}"),
                    audio=audio,
                    audio_valid=len(audio),
                    features=TextFeatures(stored.get_tensor(f"text.{number}")),
                    fps=float(RATE),
                )
            )
        return Pool(samples, TextFeatures(stored.get_tensor("empty")))
