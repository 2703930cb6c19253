"""The work of one process of train-lora: load, train, and write the LoRA of the end or of a step."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.config.lora_files import LORA_NAME
from ltxcore.config.recipe import Recipe
from ltxcore.memory.arrangement import Arrangement, Connectors
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TRAIN, versions
from ltxcore.pipeline.base.stamp import request_fingerprint
from ltxcore.stages.train_lora.control import TrainingControl
from ltxcore.stages.train_lora.first_lora import open_first_lora
from ltxcore.stages.train_lora.lora_sides import by_suffix, shown_sides
from ltxcore.stages.train_lora.sample_steps import step_directory
from ltxcore.store.file_hashes import write_hashes
from ltxcore.validation.sides import Sides

if TYPE_CHECKING:
    import torch

    from ltxcore.memory.placement import Placement
    from ltxcore.stages.train_lora.connected_captions import ConnectedCaptions, ConnectedSamples
    from ltxcore.stages.train_lora.stored_samples import StoredSamples
    from ltxcore.training.crepa import Alignment
    from ltxcore.training.evaluation import Evaluation
    from ltxcore.training.loop import Averages, TrainResult
    from ltxcore.training.metrics import StepMetrics

    Weights = dict[str, torch.Tensor]

logger = logging.getLogger(__name__)

PAUSED = "paused"
"""A file that is there while a training pauses: it goes on, wherever the recipe says that it begins."""


@dataclass
class Computation:
    """One training, as one process computes it, alone or among several.

    Args:
        ctx: with auto settings decided.
        recipe: with its length in steps.
        directory: of the training.
        request: everything that the training's result depends on.
        device: where it computes.
        arrangement: where the weights are.
    """

    ctx: Context
    recipe: Recipe
    directory: Path
    request: dict[str, Any]
    device: str
    arrangement: Arrangement

    def run(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int
    ) -> TrainResult | None:
        """Train from the newest checkpoint on.

        Returns:
            None where it has paused with a checkpoint: at the step `pause_at`, or, unless that is 0, where
            somebody asked for a sample.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            OptimizerMissing, BucketTooSmall: nothing is loaded then.
            ForeignCheckpoint, NoSuchCheckpoint: see `find_start`.
            AdapterError: see `open_first_lora`.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
        """
        from ltxcore.memory.placement import Placement
        from ltxcore.models.files.loading import load_transformer
        from ltxcore.models.torch_types import torch_type
        from ltxcore.training.loop import TrainingInterrupted, train
        from ltxcore.training.shards import is_first_process

        dtype = torch_type(self.recipe.training.mixed_precision)
        init_from = open_first_lora(self.ctx, self.request)
        samples, connectors = self._text(dtype)
        # What is resident goes straight to the device; what is streamed never is there as a whole.
        first = self.device if self.arrangement.strategy == "resident" else "cpu"
        transformer = load_transformer(self.ctx.source, dtype, first)
        placement = Placement(transformer, self.arrangement, self.device)
        alignment = self._alignment(transformer)
        planned, reached = self.recipe.training.max_train_steps, 0
        control = TrainingControl(self.directory, self.recipe, pauses=pause_at != 0)

        def keep(step: int, averages: Averages | None) -> None:
            nonlocal reached
            reached = step
            if control.is_sampled(step):
                self._leave_sample(step, transformer, placement, averages)

        def leave_again(step: int, averages: Averages | None) -> None:
            nonlocal reached
            reached = step
            # The sample of the step at which it has paused before is gone, or damaged and set aside; or
            # somebody asks for it now.
            if (step == pause_at or control.is_wished(step)) and control.is_sampled(step):
                self._leave_sample(step, transformer, placement, averages)

        def pauses() -> bool:
            # At the last step there is nothing to pause for.
            last = planned if control.last is None else control.last
            return reached < last and (0 < pause_at <= reached or control.pauses_after(reached))

        try:
            result = train(
                transformer,
                connectors,
                samples,
                self._continued(),
                self.directory,
                run_fingerprint=request_fingerprint(TRAIN, self.request),
                request={"versions": versions(TRAIN), **self.request},
                max_tokens=self.ctx.source.text_max_tokens,
                placement=placement,
                alignment=alignment,
                init_from=init_from,
                evaluate=self._evaluation(samples, connectors),
                keep_weights=keep,
                at_start=leave_again,
                on_step=on_step,
                should_stop=lambda: should_stop() or pauses(),
                control=control,
            )
        except TrainingInterrupted:
            if should_stop() or not pauses():
                raise
            (self.directory / PAUSED).touch()
            if control.pauses_after(reached) and is_first_process():
                control.paused()
            return None
        exported = by_suffix(self.recipe.training, self._found(transformer, result))
        self._export(self.directory / "lora", transformer, placement, exported)
        if alignment is not None:
            self._write_projector(alignment)
            alignment.remove()
        placement.remove()
        (self.directory / PAUSED).unlink(missing_ok=True)
        return result

    @cached_property
    def _stored(self) -> StoredSamples:
        from ltxcore.stages.train_lora.stored_samples import StoredSamples

        return StoredSamples(self.ctx)

    def _continued(self) -> Recipe:
        """The recipe; a paused training continues from its checkpoint."""
        if not (self.directory / PAUSED).exists():
            return self.recipe
        training = self.recipe.training.model_copy(update={"resume_from_checkpoint": "latest"})
        return self.recipe.model_copy(update={"training": training})

    def _text(self, dtype: torch.dtype) -> tuple[StoredSamples | ConnectedSamples, Any]:
        """The samples, with the connectors that their captions still have to go through."""
        from ltxcore.stages.train_lora.connected_captions import ConnectedSamples
        from ltxcore.stages.train_lora.connectors import connectors_on

        samples = self._stored
        where: Connectors = self.arrangement.connectors
        if where == "precomputed":
            connected = self._connected(dtype)
            stand_in = connected.compute(samples.captions(), self.device)
            return ConnectedSamples(samples, connected), stand_in
        return samples, connectors_on(self.ctx.source, dtype, self.device, streamed=where == "streamed")

    def _connected(self, dtype: torch.dtype) -> ConnectedCaptions:
        from ltxcore.stages.train_lora.connected_captions import ConnectedCaptions

        return ConnectedCaptions(self.ctx, self.directory, dtype)

    def _evaluation(self, samples: StoredSamples | ConnectedSamples, connectors: Any) -> Evaluation | None:
        """What measures the held-out clips; None where there are none."""
        from ltxcore.training.evaluation import Evaluation

        settings = self.recipe.evaluation
        if not settings.holds_out:
            return None
        clips, slots = samples.held_out(), self.ctx.source.text_max_tokens
        found = Evaluation(clips, samples.load, settings, self.recipe.given, connectors, slots, self.device)
        passes = found.passes * (2 if self.recipe.training.use_ema else 1)
        logger.info("%d clips are held out; an evaluation is %d passes", len(clips), passes)
        return found

    def _alignment(self, transformer: Any) -> Alignment | None:
        """CREPA's alignment on the transformer; None if the recipe has no CREPA."""
        from ltxcore.training.crepa import Alignment

        settings = self.recipe.crepa
        if not settings.crepa_enabled:
            return None
        seed = self.recipe.training.seed
        return Alignment(transformer, settings, self.ctx.teacher.width, self.device, seed)

    def _found(self, transformer: Any, result: TrainResult) -> Sides[Weights]:
        """The weights and averages to export, of the last step or of the best one.

        Raises:
            BrokenCheckpoint: that of the best step is gone or damaged, with what to do.
        """
        from ltxcore.training.checkpoints import BrokenCheckpoint, read_checkpoint
        from ltxcore.training.lora import lora_parameters

        last: Weights = dict(lora_parameters(transformer))
        weights, ema = last, result.ema
        if exports_best(self.recipe, result):
            place = self.directory / f"checkpoint-{result.best_step}"
            try:
                best = read_checkpoint(place)
            except BrokenCheckpoint as error:
                raise BrokenCheckpoint(
                    f"{error}; without it the LoRA of the best step, {result.best_step}, cannot be exported. "
                    "Write `evaluation: {export: last}` in the recipe to export that of the last step, or "
                    f"delete {self.directory}: the next run then trains from the beginning"
                ) from error
            # A checkpoint also holds what is trained beside the adapter.
            weights, ema = {name: best.lora[name] for name in last}, best.ema
        return Sides(lora=weights, ema=_averages_of(last, ema))

    def _export(
        self,
        directory: Path,
        transformer: Any,
        placement: Placement,
        exported: Mapping[str, Weights],
    ) -> None:
        """Write LoRAs, by the suffixes of their files."""
        from ltxcore.training.adapters import take_adapter
        from ltxcore.training.export import Lineage, export_lora
        from ltxcore.training.shards import is_first_process

        lineage = Lineage(
            self.request["transformer"],
            self.ctx.snapshot.id,
            self.ctx.recipe,
            self.request["trigger"],
            self.ctx.source.version.name,
            self._stored.reference_factors,
        )
        for suffix, weights in exported.items():
            adapter = take_adapter(transformer, weights, placement.reading)
            if is_first_process():
                export_lora(directory, LORA_NAME, adapter, lineage, suffix)

    def _leave_sample(
        self, step: int, transformer: Any, placement: Placement, averages: Averages | None
    ) -> None:
        """Write the LoRAs of a step for rendering, whole or not at all."""
        from ltxcore.training.lora import lora_parameters
        from ltxcore.training.shards import is_first_process

        target = step_directory(self.directory, step)
        temporary = target.with_name(f".unfinished-{target.name}")
        if is_first_process():
            for leftover in (temporary, target):
                shutil.rmtree(leftover, ignore_errors=True)
        weights: Weights = dict(lora_parameters(transformer))
        trained = Sides(lora=weights, ema=_averages_of(weights, averages))
        found = by_suffix(self.recipe.training, trained)
        shown = {side.suffix: found[side.suffix] for side in shown_sides(self.recipe.training)}
        self._export(temporary, transformer, placement, shown)
        if is_first_process():
            write_hashes(temporary, sorted(temporary.iterdir()))
            temporary.rename(target)

    def _write_projector(self, alignment: Alignment) -> None:
        """Write what CREPA trained beside the LoRA."""
        from ltxcore.training.crepa import write_projector
        from ltxcore.training.shards import is_first_process

        if not is_first_process():
            return
        header = {
            **self.request["crepa"],
            "crepa_encoder": self.recipe.crepa.crepa_encoder,
            "base_fingerprint": self.request["transformer"],
            "snapshot_id": self.ctx.snapshot.id,
        }
        write_projector(self.directory / "lora", alignment.projector, header)


def _averages_of(weights: Weights, averages: Averages | None) -> Weights | None:
    """The adapter's averages, without those of other trained parameters."""
    return None if averages is None else {name: averages[name] for name in weights}


def exports_best(recipe: Recipe, result: TrainResult) -> bool:
    """Whether the exported LoRA is that of an earlier, best step."""
    return recipe.evaluation.export == "best" and result.best_step not in (None, result.steps)
