"""What the training loop waits for data, as a share of its step time, with a real store.

    python -m bench.data_wait [STEPS]

Clips of 832x480 and 49 frames with sound: latents of 128x7x15x26 and 49x128 in Zarr, captions of 200 tokens
of 3840 in Arrow, as LTX-2.0's are, read and verified by the stores' own code. The loop is the real one; the
transformer has the real number of tokens and channels and is narrow, so that its step takes no longer on a
CPU than the full model's on a fast GPU. The connectors are the tiny model's and get the first columns of what
is read. The same steps are then made with all samples in memory. The number printed last is the share of the
time inside steps that stood waiting, in per cent, target under 2.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.machine import describe_machine, write_table
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.files.loading import load_connectors
from ltxcore.models.files.source import prepare_model
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.models.versions import VERSIONS
from ltxcore.store.bf16 import from_bits
from ltxcore.store.blobs import Blobs
from ltxcore.store.latents import Encoded, LatentStore
from ltxcore.store.texts import Embedded, TextStore
from ltxcore.training.batch_entry import Entry
from ltxcore.training.data import SampleSource, TrainingSample
from ltxcore.training.loop import train
from ltxcore.training.metrics import StepMetrics

CLIPS = 24
VIDEO, AUDIO, TEXT = (128, 7, 15, 26), (49, 128), (200, 3840)
WIDTH = 64
TEXT_WIDTH = 48
"""What the tiny model's connectors take."""


def write_store(root: Path) -> None:
    draw = np.random.default_rng(0)

    def bits(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint16]]:
        values = torch.from_numpy(draw.standard_normal(shape, np.float32)).bfloat16()
        return values.view(torch.uint16).numpy()

    latents, texts = LatentStore(Blobs(root)), TextStore(Blobs(root))
    for kind, shape in (("video", VIDEO), ("audio", AUDIO)):
        array = latents.array_name(kind, "bench", shape)  # type: ignore[arg-type]
        latents.reserve(array, shape, CLIPS)
        latents.put(array, [Encoded(f"{kind}-{n}", bits(shape), {"clip": n}) for n in range(CLIPS)])
    texts.put([Embedded(f"text-{n}", f"clip {n}", bits(TEXT), None) for n in range(CLIPS)])


class StoreSamples:
    """Samples read from the store at every visit."""

    def __init__(self, root: Path) -> None:
        self._latents, self._texts = LatentStore(Blobs(root)), TextStore(Blobs(root))
        self.reading_s = 0.0

    def entries(self) -> list[Entry]:
        return [Entry(f"{n}", "832x480@49", fps=25.0, has_audio=True, captions=1) for n in range(CLIPS)]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        began = time.thread_time()
        sound = from_bits(self._latents.read(f"audio-{sample_id}"))
        text = from_bits(self._texts.read(f"text-{sample_id}").video)
        sample = TrainingSample(
            video=from_bits(self._latents.read(f"video-{sample_id}")),
            audio=sound,
            audio_valid=len(sound),
            features=TextFeatures(video=text[:, :TEXT_WIDTH].contiguous(), audio=None),
            fps=25.0,
        )
        self.reading_s += time.thread_time() - began
        return sample


class MemorySamples(StoreSamples):
    """The same, read once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._batches = {
            entry.sample_id: super(MemorySamples, self).load(entry.sample_id, 0) for entry in self.entries()
        }

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        return self._batches[sample_id]


def make_transformer() -> Any:
    from diffusers import LTX2VideoTransformer3DModel

    sizes = {
        "num_layers": 2,
        "num_attention_heads": 4,
        "attention_head_dim": WIDTH // 4,
        "cross_attention_dim": WIDTH,
        "audio_num_attention_heads": 4,
        "audio_attention_head_dim": WIDTH // 8,
        "audio_cross_attention_dim": WIDTH // 2,
        "caption_channels": TEXT_WIDTH,
    }
    return LTX2VideoTransformer3DModel(**{**VERSIONS["2.0"].transformer, **sizes}).requires_grad_(False)


def run(root: Path, source: SampleSource, name: str, steps: int) -> list[StepMetrics]:
    """The steps of a training, but the first, in which everything is touched for the first time."""
    model = prepare_model(ModelSettings(), root / "models")
    recipe = Recipe(
        lora=LoraSettings(lora_rank=4),
        training=TrainingSettings(max_train_steps=steps + 1, mixed_precision="no"),
    )
    seen: list[StepMetrics] = []
    train(
        make_transformer(),
        load_connectors(model, torch.float32, "cpu"),
        source,
        recipe,
        root / name,
        run_fingerprint=name,
        max_tokens=256,
        on_step=seen.append,
    )
    return seen[1:]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-data-") as place:
        root = Path(place)
        write_store(root / "store")
        stored = StoreSamples(root / "store")
        began = time.process_time()
        found = run(root, stored, "store", steps)
        busy_s = time.process_time() - began
        bare = run(root, MemorySamples(root / "store"), "memory", steps)
    waited, inside = sum(m.data_wait_s for m in found), sum(m.step_s for m in found)
    share = 100 * waited / inside
    rows = [
        ["a step, samples from the store", f"{1e3 * inside / steps:.0f} ms"],
        ["of it waiting for data", f"{1e3 * waited / steps:.2f} ms"],
        ["the longest wait of a step", f"{1e3 * max(m.data_wait_s for m in found):.1f} ms"],
        ["processor time of a step, with its part of the start", f"{1e3 * busy_s / (steps + 1):.0f} ms"],
        ["reading and verifying a sample, processor time", f"{1e3 * stored.reading_s / (steps + 2):.1f} ms"],
        ["a step, samples in memory", f"{1e3 * sum(m.step_s for m in bare) / steps:.0f} ms"],
        ["of it waiting for data", f"{1e3 * sum(m.data_wait_s for m in bare) / steps:.2f} ms"],
        ["share of the step that waits", f"{share:.2f} %"],
    ]
    load = f"load average {os.getloadavg()[0]:.0f}"
    title = f"{steps} steps of batch 1, {CLIPS} clips, one ahead, warm reads; {describe_machine()}, {load}"
    write_table("data_wait", title, ["", "figure"], rows)
    print(f"{share:.2f}")


if __name__ == "__main__":
    main()
