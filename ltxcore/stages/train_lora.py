"""train-lora: the adapter, trained on committed latents and text features, with its files and its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.memory.plan import MemoryPlan
from ltxcore.stages import embed_text, encode_latents
from ltxcore.stages.context import Context
from ltxcore.stages.contract import TRAIN
from ltxcore.stages.memory_plans import plan_training
from ltxcore.stages.memory_record import memory_tags
from ltxcore.stages.reports import as_csv, dataset_rows
from ltxcore.stages.stamp import Outcome, Stamp, output_file, request_fingerprint
from ltxcore.store.blobs import write_atomic
from ltxcore.store.latents import LatentStore
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of

if TYPE_CHECKING:
    from ltxcore.training.loop import TrainResult
    from ltxcore.training.metrics import StepMetrics

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

    def plan(self) -> MemoryPlan:
        """What the training will need of memory.

        Raises:
            OverBudget: more than it may use; nothing is loaded then.
        """
        self._memory_plan.check()
        return self._memory_plan

    def run(self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool]) -> TrainResult:
        """Load, train from the newest checkpoint on, and write the LoRA and the loss picture.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
        """
        import torch

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
        transformer = load_transformer(self.ctx.source, dtype, self.device)
        connectors = load_connectors(self.ctx.source, dtype, self.device)

        def tell(metrics: StepMetrics) -> None:
            self._sync()
            on_step(metrics)

        result = train(
            transformer,
            connectors,
            samples,
            self.ctx.recipe,
            self.directory,
            run_fingerprint=request_fingerprint(TRAIN, self.request),
            max_tokens=self.ctx.source.text_max_tokens,
            on_step=tell,
            should_stop=should_stop,
        )
        lineage = Lineage(self.request["transformer"], self.ctx.snapshot.id, self.ctx.recipe)
        export_lora(self.directory / "lora", LORA_NAME, lora_parameters(transformer), lineage)
        plot_losses(self.metrics_file, self.loss_picture)
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
