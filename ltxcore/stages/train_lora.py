"""train-lora: the adapter, trained on committed latents and text features, with its files and its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.config.base import parse
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.memory.plan import MemoryPlan
from ltxcore.stages import embed_text, encode_latents
from ltxcore.stages.context import Context
from ltxcore.stages.contract import TRAIN
from ltxcore.stages.memory_plans import plan_stage
from ltxcore.stages.memory_record import memory_tags
from ltxcore.stages.reports import as_csv, dataset_rows
from ltxcore.stages.stamp import Outcome, Stamp, output_file, request_fingerprint
from ltxcore.store.blobs import write_atomic
from ltxcore.store.latents import LatentStore
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of

if TYPE_CHECKING:
    import torch

    from ltxcore.memory.arrangement import Connectors
    from ltxcore.stages.connected import ConnectedCaptions
    from ltxcore.training.data import SampleSource
    from ltxcore.training.loop import TrainResult
    from ltxcore.training.metrics import StepMetrics

logger = logging.getLogger(__name__)

# These say how often a training is saved, not what it computes.
NOT_IN_REQUEST = {"checkpoint_step_interval", "checkpoints_total_limit"}
SYNC_EVERY_S = 5.0
LORA_NAME = "ltx2_lora"


def request(ctx: Context) -> dict[str, Any]:
    """Data, latent and text spaces, weights, and the parts of the recipe that change a number."""
    ctx = ctx.settled
    latents, text = encode_latents.request(ctx), embed_text.space_request(ctx)
    training = ctx.recipe.training.fingerprint_data()
    return {
        **latents,
        **text,
        "quarantined": sorted(encode_latents.quarantined(ctx, LatentStore(ctx.store))),
        "transformer": ctx.source.fingerprint("transformer"),
        "connectors": ctx.source.fingerprint("connectors"),
        "lora": ctx.recipe.lora.fingerprint_data(),
        "training": {key: value for key, value in training.items() if key not in NOT_IN_REQUEST}
        # The same batches make a step whether processes compute them beside or after one another.
        | {"gradient_accumulation_steps": ctx.recipe.batches_a_step},
    }


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return encode_latents.needs(ctx) | embed_text.needs(ctx)


def present(ctx: Context, stamp: Stamp) -> bool:
    """The stamp's files are all that a training leaves, and they are in place already."""
    return True


@dataclass
class Training:
    """One training in its directory: what is loaded, what is told, what is left."""

    ctx: Context
    directory: Path
    request: dict[str, Any]
    device: str
    memory_plan: MemoryPlan | None = None
    """The plan to work by. None: the first of the planner."""

    def __post_init__(self) -> None:
        self.ctx = self.ctx.settled
        self._synced_s = 0.0
        # Made before anything loads: later the weights themselves would count against what is free.
        self._memory_plan = self.memory_plan or plan_stage(self.ctx, TRAIN, self.device)
        self.tracker = tracker(self.ctx, self.directory)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with its length in steps, also where it is given in epochs.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            ConfigError: they are over before the warm-up is.
        """
        from ltxcore.stages.samples import StoredSamples
        from ltxcore.training.batch_sizes import batch_sizes
        from ltxcore.training.plan import BatchPlan, steps_of_epochs

        settings = self.ctx.recipe.training
        if not settings.num_train_epochs:
            return self.ctx.recipe
        entries = StoredSamples(self.ctx).entries()
        plan = BatchPlan(
            entries,
            seed=settings.seed,
            batch_size=batch_sizes(entries, settings.train_batch_size),
            caption_dropout=settings.caption_dropout_probability,
        )
        steps = steps_of_epochs(self.ctx.recipe, plan.batches_per_epoch)
        logger.info(
            "%d epochs of %d batches are %d steps", settings.num_train_epochs, plan.batches_per_epoch, steps
        )
        settled = {**settings.model_dump(), "num_train_epochs": 0, "max_train_steps": steps}
        training = parse(TrainingSettings, settled, f"the recipe's {settings.num_train_epochs} epochs")
        return self.ctx.recipe.model_copy(update={"training": training})

    def plan(self) -> MemoryPlan:
        """What the training will need of memory.

        Raises:
            OverBudget: more than it may use; nothing is loaded then.
        """
        self._memory_plan.check()
        return self._memory_plan

    def run(self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool]) -> TrainResult:
        """Train from the newest checkpoint on, in as many processes as the recipe says, and draw the loss.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
            ProcessOutOfMemory, ProcessFailed: one of several processes failed.
        """
        from ltxcore.stages.connected import delete_connected
        from ltxcore.stages.samples import StoredSamples
        from ltxcore.training.plot import plot_losses

        def tell(metrics: StepMetrics) -> None:
            self._sync()
            on_step(metrics)

        StoredSamples(self.ctx)
        self._begin_record()
        if self.recipe.processes.count > 1:
            result = self._run_team(tell, should_stop)
        else:
            result = self.compute(tell, should_stop)
        delete_connected(self.directory)
        plot_losses(self.metrics_file, self.loss_picture)
        return result

    def _run_team(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool]
    ) -> TrainResult:
        from ltxcore.stages.training_team import Job, Team
        from ltxcore.training.loop import training_result

        job = Job(
            workspace=str(self.ctx.workspace.root),
            datasets_file=str(self.ctx.datasets_file),
            snapshot=self.ctx.snapshot.id,
            recipe=self.recipe,
            directory=str(self.directory),
            request=self.request,
            memory_plan=self._memory_plan,
            count=self.recipe.processes.count,
        )
        Team(job).run(on_step, should_stop)
        return training_result(self.directory)

    def compute(self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool]) -> TrainResult:
        """Load, train, and write the LoRA: the whole of it, or the part of one process among several.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
        """
        import torch

        from ltxcore.memory.placement import Placement
        from ltxcore.models.loading import load_transformer
        from ltxcore.training.export import Lineage, export_lora
        from ltxcore.training.loop import train
        from ltxcore.training.lora import lora_parameters
        from ltxcore.training.shares import gathered, is_first_process

        bf16 = self.ctx.recipe.training.mixed_precision == "bf16"
        dtype = torch.bfloat16 if bf16 else torch.float32
        arrangement = self._memory_plan.arrangement
        samples, connectors = self._text(arrangement.connectors, dtype)
        # What is resident goes straight to the device; what is streamed never is there as a whole.
        first = self.device if arrangement.strategy == "resident" else "cpu"
        transformer = load_transformer(self.ctx.source, dtype, first)
        placement = Placement(transformer, arrangement, self.device)

        result = train(
            transformer,
            connectors,
            samples,
            self.recipe,
            self.directory,
            run_fingerprint=request_fingerprint(TRAIN, self.request),
            max_tokens=self.ctx.source.text_max_tokens,
            placement=placement,
            on_step=on_step,
            should_stop=should_stop,
        )
        weights = gathered(lora_parameters(transformer))
        if is_first_process():
            lineage = Lineage(self.request["transformer"], self.ctx.snapshot.id, self.ctx.recipe)
            export_lora(self.directory / "lora", LORA_NAME, weights, lineage)
        placement.remove()
        return result

    def _text(self, where: Connectors, dtype: torch.dtype) -> tuple[SampleSource, Any]:
        """The samples, with the connectors that their captions still have to go through."""
        from ltxcore.memory.placement import place_connectors
        from ltxcore.models.loading import load_connectors
        from ltxcore.stages.connected import ConnectedSamples
        from ltxcore.stages.samples import StoredSamples

        samples = StoredSamples(self.ctx)
        if where == "precomputed":
            connected = self._connected(dtype)
            stand_in = connected.compute(samples.captions(), self.device)
            return ConnectedSamples(samples, connected), stand_in
        connectors = load_connectors(self.ctx.source, dtype, "cpu")
        place_connectors(connectors, self.device, streamed=where == "streamed")
        return samples, connectors

    def _connected(self, dtype: torch.dtype) -> ConnectedCaptions:
        from ltxcore.stages.connected import ConnectedCaptions

        return ConnectedCaptions(self.ctx, self.directory, dtype)

    @property
    def metrics_file(self) -> Path:
        return self.directory / "metrics.jsonl"

    @property
    def loss_picture(self) -> Path:
        return self.directory / "loss.png"

    def finish(self, result: TrainResult) -> Outcome:
        """Send what MLflow still lacks and say what the training came to."""
        loras = sorted((self.directory / "lora").glob("*.safetensors"))
        report = self.directory / "dataset-report.csv"
        write_atomic(report, as_csv(dataset_rows(self.ctx.snapshot)))
        self.tracker.sync(self.metrics_file)
        self.tracker.set_tags(memory_tags(self.ctx, self._memory_plan))
        self.tracker.log_artifacts(loras, "lora")
        self.tracker.log_artifacts([self.loss_picture, report], "report")
        sent = self.tracker.finish("FINISHED")
        return Outcome(
            counts={"steps": result.steps, "done": result.steps, "hits": 0},
            facts={
                "first_loss": result.first_loss,
                "last_loss": result.last_loss,
                "seconds_a_step": result.seconds / result.steps,
                "mlflow_run": self.tracker.run_id,
                "mlflow_error": sent.error,
                "directory": self.ctx.workspace.relative(self.directory),
            },
            files=tuple(
                output_file(self.ctx.workspace, path)
                for path in [*loras, self.loss_picture, self.metrics_file]
            ),
        )

    def _begin_record(self) -> None:
        self.tracker.begin()
        self.tracker.log_params(self.ctx.recipe.fingerprint_data())
        self.tracker.set_tags(
            {"snapshot": self.ctx.snapshot.id, "training": request_fingerprint(TRAIN, self.request)[:16]}
        )

    def _sync(self) -> None:
        if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self.tracker.sync(self.metrics_file)
            self._synced_s = time.monotonic()


def tracker(ctx: Context, directory: Path) -> MlflowRun:
    """The MLflow run of a training; its state lies in the training's directory, so other stages find it."""
    settings = ctx.recipe.tracking
    return MlflowRun(
        tracking_of(settings, ctx.workspace.mlflow),
        settings.tracker_project_name,
        settings.tracker_run_name or f"train-{directory.name}",
        directory / "mlflow.json",
    )
