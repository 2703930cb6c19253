"""What the connectors make of every caption of a training, computed once and read in every step.

One safetensors file a caption, in the training's own directory, under a key of all that it is made of: a
training that is started again finds what is there. All slots are kept, the registers' too: 15 MB a caption
at full size, so the directory is deleted when the training is done.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ltxcore.memory.out_of_memory import release_memory
from ltxcore.memory.placement import place_connectors
from ltxcore.models.connecting import ConnectedCaption, PrecomputedConnectors, connect
from ltxcore.models.loading import load_connectors
from ltxcore.stages.context import Context
from ltxcore.stages.keys import TextSpace
from ltxcore.stages.samples import StoredFeatures, StoredSamples
from ltxcore.store.blobs import write_atomic
from ltxcore.store.fingerprint import fingerprint
from ltxcore.training.data import Entry, TrainingSample
from ltxcore.training.evaluation import HeldOutClip

logger = logging.getLogger(__name__)

DIRECTORY = "connected"


class ConnectedCaptions:
    """The connectors' outputs by caption.

    Args:
        directory: of the training; the files are in a folder of it.
        dtype: the connectors' arithmetic.
    """

    def __init__(self, ctx: Context, directory: Path, dtype: torch.dtype) -> None:
        self._ctx, self._dtype = ctx, dtype
        self._folder = directory / DIRECTORY
        self._features, self._space = StoredFeatures(ctx), TextSpace.of(ctx.source)
        self._connectors = ctx.source.fingerprint("connectors")

    def compute(self, captions: Iterable[str], device: str) -> PrecomputedConnectors:
        """Make what is missing; the connectors are loaded for it, and gone afterwards."""
        waiting = [caption for caption in captions if not self._path(caption).is_file()]
        if waiting:
            self._folder.mkdir(parents=True, exist_ok=True)
            connectors = load_connectors(self._ctx.source, self._dtype, "cpu")
            place_connectors(connectors, device, streamed=False)
            for caption in waiting:
                # Another process of this training may have written it meanwhile.
                if not self._path(caption).is_file():
                    self._write(caption, connectors)
            del connectors
            release_memory()
            logger.info("the connectors have run for %d captions, once and for all", len(waiting))
        return PrecomputedConnectors(torch.device(device), self._dtype)

    def _write(self, caption: str, connectors: Any) -> None:
        from safetensors.torch import save

        features = self._features.load(caption)
        video, audio = connect(connectors, [features], self._ctx.source.text_max_tokens)
        tensors = {"video": video[0].cpu().contiguous(), "audio": audio[0].cpu().contiguous()}
        write_atomic(self._path(caption), save(tensors))

    def load(self, caption: str) -> ConnectedCaption:
        """What `compute` made of a caption."""
        from safetensors.torch import load_file

        tensors = load_file(self._path(caption))
        return ConnectedCaption(tensors["video"], tensors["audio"])

    def _path(self, caption: str) -> Path:
        key = fingerprint(
            {
                "text": self._space.key(caption).value,
                "connectors": self._connectors,
                "dtype": str(self._dtype),
                "slots": self._ctx.source.text_max_tokens,
            }
        )
        return self._folder / f"{key[:40]}.safetensors"


def delete_connected(directory: Path) -> None:
    """Give the space back that a training's captions took."""
    if (directory / DIRECTORY).exists():
        shutil.rmtree(directory / DIRECTORY)


class ConnectedSamples:
    """A `SampleSource` whose captions went through the connectors already."""

    def __init__(self, samples: StoredSamples, captions: ConnectedCaptions) -> None:
        self._samples, self._captions = samples, captions

    def entries(self) -> Sequence[Entry]:
        return self._samples.entries()

    def held_out(self) -> list[HeldOutClip]:
        return self._samples.held_out()

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        sample = self._samples.load(sample_id, caption)
        return replace(sample, features=self._captions.load(self._samples.caption(sample_id, caption)))
