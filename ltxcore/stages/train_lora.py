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
from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.device import device_budget_bytes, device_name
from ltxcore.memory.plan import MemoryPlan
from ltxcore.stages import embed_text, encode_latents
from ltxcore.stages.context import Context
from ltxcore.stages.contract import TRAIN
from ltxcore.stages.memory_plans import plan_training
from ltxcore.stages.memory_record import memory_tags
from ltxcore.stages.reports import as_csv, dataset_rows
from ltxcore.stages.stamp import Outcome, Stamp, output_file, request_fingerprint
from ltxcore.stages.training_plan import choose_for_device, forced_arrangement
from ltxcore.store.blobs import write_atomic
from ltxcore.store.latents import LatentStore
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of

if TYPE_CHECKING:
    from ltxcore.training.loop import TrainResult
    from ltxcore.training.metrics import StepMetrics

logger = logging.getLogger(__name__)

# These say how often a training is saved, not what it computes.
NOT_IN_REQUEST = {"checkpoint_step_interval", "checkpoints_total_limit"}
SYNC_EVERY_S = 5.0
LORA_NAME = "ltx2_lora"


def request(ctx: Context) -> dict[str, Any]:
    """Data, latent and text spaces, weights, and the parts of the recipe that change a number."""
    latents, text = encode_latents.request(ctx), embed_text.space_request(ctx)
    training = ctx.recipe.training.fingerprint_data()
    return {
        **latents,
        **text,
        "quarantined": sorted(encode_latents.quarantined(ctx, LatentStore(ctx.store))),
        "transformer": ctx.source.fingerprint("transformer"),
        "connectors": ctx.source.fingerprint("connectors"),
        "lora": ctx.recipe.lora.fingerprint_data(),
        "training": {key: value for key, value in training.items() if key not in NOT_IN_REQUEST},
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

    def __post_init__(self) -> None:
        self._synced_s = 0.0
        # Made before anything loads: later the weights themselves would count against what is free.
        self._memory_plan = plan_training(self.ctx, self.device)
        self.tracker = tracker(self.ctx, self.directory)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with its length in steps, also where it is given in epochs.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            ConfigError: they are over before the warm-up is.
        """
        from ltxcore.stages.samples import StoredSamples
        from ltxcore.training.plan import BatchPlan, steps_of_epochs

        settings = self.ctx.recipe.training
        if not settings.num_train_epochs:
            return self.ctx.recipe
        plan = BatchPlan(
            StoredSamples(self.ctx).entries(),
            seed=settings.seed,
            batch_size=settings.train_batch_size,
            caption_dropout=settings.caption_dropout_probability,
        )
        steps = steps_of_epochs(settings, plan.batches_per_epoch)
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

    def arrangement(self) -> Arrangement:
        """Where the transformer's weights will be.

        Raises:
            NothingFits, StrategyUnavailable: see `choose_for_device`.
        """
        budget = device_budget_bytes(self.device, self.ctx.recipe.memory.vram_gib)
        if budget is None:
            return forced_arrangement(self.ctx)
        choice = choose_for_device(self.ctx, budget, device_name())
        logger.info("%s", choice.plan)
        return choice.arrangement

    def run(self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool]) -> TrainResult:
        """Load, train from the newest checkpoint on, and write the LoRA and the loss picture.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
        """
        import torch

        from ltxcore.memory.placement import Placement, place_connectors
        from ltxcore.models.loading import load_connectors, load_transformer
        from ltxcore.stages.samples import StoredSamples
        from ltxcore.training.export import Lineage, export_lora
        from ltxcore.training.loop import train
        from ltxcore.training.lora import lora_parameters
        from ltxcore.training.plot import plot_losses

        samples = StoredSamples(self.ctx)
        self._begin_record()
        bf16 = self.ctx.recipe.training.mixed_precision == "bf16"
        dtype = torch.bfloat16 if bf16 else torch.float32
        arrangement = self.arrangement()
        # What is resident goes straight to the device; what is streamed never is there as a whole.
        first = self.device if arrangement.strategy == "resident" else "cpu"
        transformer = load_transformer(self.ctx.source, dtype, first)
        placement = Placement(transformer, arrangement, self.device)
        connectors = load_connectors(self.ctx.source, dtype, "cpu")
        place_connectors(connectors, self.device, streamed=arrangement.connectors_streamed)

        def tell(metrics: StepMetrics) -> None:
            self._sync()
            on_step(metrics)

        result = train(
            transformer,
            connectors,
            samples,
            self.recipe,
            self.directory,
            run_fingerprint=request_fingerprint(TRAIN, self.request),
            max_tokens=self.ctx.source.text_max_tokens,
            placement=placement,
            on_step=tell,
            should_stop=should_stop,
        )
        lineage = Lineage(self.request["transformer"], self.ctx.snapshot.id, self.ctx.recipe)
        export_lora(self.directory / "lora", LORA_NAME, lora_parameters(transformer), lineage)
        plot_losses(self.metrics_file, self.loss_picture)
        placement.remove()
        return result

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
