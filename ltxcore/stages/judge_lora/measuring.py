"""The losses of base, champion and challenger on each clip, in one process over one base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from ltxcore.judging.frozen_clips import FrozenClip
from ltxcore.judging.paired import Losses
from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.placement import Placement
from ltxcore.models.files.loading import load_transformer
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.torch_types import torch_type
from ltxcore.pipeline.base.context import Context
from ltxcore.stages.train_lora.connected_captions import ConnectedCaptions
from ltxcore.stages.train_lora.connectors import connectors_on
from ltxcore.stages.train_lora.stored_samples import SampleReader
from ltxcore.training.data import TrainingSample
from ltxcore.training.evaluation import Evaluation, HeldOutClip
from ltxcore.validation.mounted_adapters import MountedAdapters, TransformerAlone


class Measuring:
    """Measures clips with one LoRA after another on the transformer.

    The noise comes from clip, sigma and `eval_seed` alone, so every LoRA meets the same.
    """

    def __init__(
        self,
        ctx: Context,
        directory: Path,
        device: str,
        arrangement: Arrangement,
        clips: Iterable[FrozenClip],
        files: Mapping[str, Path | None],
    ) -> None:
        """Load the model.

        Args:
            ctx: of the stage.
            directory: of the request, for what is computed beforehand.
            device: where it computes.
            arrangement: where the weights are.
            clips: what will be measured.
            files: side -> its LoRA; None: the base.

        Raises:
            ModelError: the model is missing or incomplete.
        """
        self._clips = {clip.media_id: clip for clip in clips}
        self._files, self._device = files, torch.device(device)
        self._dtype = torch_type(ctx.recipe.training.mixed_precision)
        self._reader = SampleReader(ctx)
        self._connected: ConnectedCaptions | None = None
        if arrangement.connectors == "precomputed":
            self._connected = ConnectedCaptions(ctx, directory, self._dtype)
            captions = sorted({clip.caption for clip in self._clips.values()})
            connectors = self._connected.compute(captions, device)
        else:
            streamed = arrangement.connectors == "streamed"
            connectors = connectors_on(ctx.source, self._dtype, device, streamed=streamed)
        first = device if arrangement.strategy == "resident" else "cpu"
        self._transformer = load_transformer(ctx.source, self._dtype, first).requires_grad_(False)
        install_cross_modulation(self._transformer)
        placement = Placement(self._transformer, arrangement, device)
        self._adapters = MountedAdapters(TransformerAlone(self._transformer), placement)
        self._mounted, self._side = ExitStack(), ""
        self._evaluation = Evaluation(
            [HeldOutClip(media_id, media_id) for media_id in self._clips],
            self._load,
            ctx.recipe.evaluation,
            ctx.recipe.given,
            connectors,
            ctx.source.text_max_tokens,
            device,
        )

    def losses(self, side: str, media_id: str) -> Losses:
        """A clip's losses with the LoRA of a side; None where the model gives no number.

        Raises:
            AdapterError: the LoRA does not fit the model.
        """
        self._use(side)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            found = self._evaluation.of_clip(self._transformer, HeldOutClip(media_id, media_id))
        return {
            kind: {sigma: value if math.isfinite(value) else None for sigma, value in values.items()}
            for kind, values in found.items()
        }

    def _use(self, side: str) -> None:
        if side == self._side:
            return
        self._side = ""
        self._mounted.close()
        file = self._files[side]
        if file is not None:
            self._mounted.enter_context(self._adapters.mounted([file]))
        self._side = side

    def _load(self, media_id: str, caption: int | None) -> TrainingSample:
        clip = self._clips[media_id]
        sample = self._reader.load(clip.sample, clip.caption)
        if self._connected is None:
            return sample
        return replace(sample, features=self._connected.load(clip.caption))
