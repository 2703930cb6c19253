"""The connectors' output for every caption of a training, computed once and read in every step.

One safetensors file a caption, in the training's own directory, under a key of all inputs: a restarted
training finds what is there. Every read is checked against the checksum in the file's header. All slots are
kept, the registers' too: 15 MB a caption at full size, so the directory is deleted when the training is done.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ltxcore.models.text.text_connectors import ConnectedCaption, PrecomputedConnectors
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.keys import TextSpace
from ltxcore.stages.train_lora.connectors import text_connectors
from ltxcore.stages.train_lora.stored_samples import StoredFeatures, StoredSamples
from ltxcore.store.blobs import write_atomic
from ltxcore.store.checksum import checksum
from ltxcore.store.fingerprint import fingerprint
from ltxcore.training.batch_entry import Entry
from ltxcore.training.data import TrainingSample
from ltxcore.training.evaluation import HeldOutClip

logger = logging.getLogger(__name__)

DIRECTORY = "connected"
CHECKSUM = "checksum"
"""The key in the header of a file."""


class DamagedConnected(RuntimeError):
    """A stored connectors' output is damaged."""


class ConnectedCaptions:
    """The connectors' outputs by caption.

    Args:
        directory: of the training; the files are in a folder of it.
        dtype: the connectors' arithmetic.
    """

    def __init__(self, ctx: Context, directory: Path, dtype: torch.dtype) -> None:
        self._ctx, self._dtype = ctx, dtype
        self._folder = directory / DIRECTORY
        self._features, self._space = StoredFeatures(ctx), TextSpace.of(ctx.source, ctx.recipe)
        self._connectors = ctx.source.fingerprint("connectors")

    def compute(self, captions: Iterable[str], device: str) -> PrecomputedConnectors:
        """Compute what is missing; the connectors are loaded for this and freed afterwards."""
        waiting = [caption for caption in captions if not self._path(caption).is_file()]
        if waiting:
            self._folder.mkdir(parents=True, exist_ok=True)
            with text_connectors(self._ctx.source, self._dtype, device) as connected:
                for caption in waiting:
                    # Another process of this training may have written it meanwhile.
                    if not self._path(caption).is_file():
                        self._write(caption, connected(self._features.load(caption)))
            logger.info("the connectors have run for %d captions, once and for all", len(waiting))
        return PrecomputedConnectors(torch.device(device), self._dtype)

    def _write(self, caption: str, connected: ConnectedCaption) -> None:
        from safetensors.torch import save

        tensors = {"video": connected.video, "audio": connected.audio}
        write_atomic(self._path(caption), save(tensors, metadata={CHECKSUM: _checksum(tensors)}))

    def load(self, caption: str) -> ConnectedCaption:
        """The stored output for a caption.

        Raises:
            FileNotFoundError: `compute` has not computed it.
            DamagedConnected: its file is not what was written, and is deleted.
        """
        from safetensors import SafetensorError, safe_open

        path = self._path(caption)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("video", "audio")}
                whole = (file.metadata() or {}).get(CHECKSUM) == _checksum(tensors)
        except SafetensorError:
            whole = False
        if not whole:
            path.unlink(missing_ok=True)
            raise DamagedConnected(
                f"{path} was not what was written, and is deleted; start the training again: it goes on from "
                "its last checkpoint, and makes the file again"
            )
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


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of the bytes of tensors, their types and shapes."""
    parts = [tensors[name] for name in sorted(tensors)]
    layout = "".join(f"{part.dtype}{tuple(part.shape)}" for part in parts)
    return checksum(b"".join((layout.encode(), *(part.view(torch.uint8).numpy().data for part in parts))))


def delete_connected(directory: Path) -> None:
    """Delete the stored outputs of a training's captions."""
    if (directory / DIRECTORY).exists():
        shutil.rmtree(directory / DIRECTORY)


class ConnectedSamples:
    """A `SampleSource` whose captions went through the connectors already."""

    def __init__(self, samples: StoredSamples, captions: ConnectedCaptions) -> None:
        self._samples, self._captions = samples, captions

    def entries(self) -> Sequence[Entry]:
        """The entries of the batches, as `StoredSamples.entries`."""
        return self._samples.entries()

    def held_out(self) -> list[HeldOutClip]:
        """The held-out clips, as `StoredSamples.held_out`."""
        return self._samples.held_out()

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        """One sample with the connected features of its caption."""
        sample = self._samples.load(sample_id, caption)
        return replace(sample, features=self._captions.load(self._samples.caption(sample_id, caption)))
