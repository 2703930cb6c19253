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
from ltxcore.config.scheduled_sampling_settings import ScheduledSamplingSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.config.tread_settings import TreadSettings
from ltxcore.memory.plan import MemoryPlan
from ltxcore.stages import embed_frames, embed_text, encode_latents
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES, TRAIN
from ltxcore.stages.held_out import evaluation_set, held_out
from ltxcore.stages.memory_plans import plan_stage
from ltxcore.stages.memory_record import memory_tags
from ltxcore.stages.reports import as_csv, dataset_rows
from ltxcore.stages.stamp import Outcome, Stamp, output_file, request_fingerprint
from ltxcore.stages.training_checks import check_sharing, check_training
from ltxcore.store.blobs import write_atomic
from ltxcore.store.latents import LatentStore
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of

if TYPE_CHECKING:
    from ltxcore.training.loop import TrainResult
    from ltxcore.training.metrics import StepMetrics

logger = logging.getLogger(__name__)

# These say how often a training is saved, where it begins and what it refuses, not what it computes.
NOT_IN_REQUEST = {
    "checkpoint_step_interval",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "allow_small_buckets",
}
SYNC_EVERY_S = 5.0


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
        "conditioning": ctx.recipe.conditioning.fingerprint_data(),
        "training": {key: value for key, value in training.items() if key not in NOT_IN_REQUEST}
        # The same batches make a step whether processes compute them beside or after one another.
        | {"gradient_accumulation_steps": ctx.recipe.batches_a_step},
        "trigger": trigger(ctx),
        **techniques(ctx.recipe),
        **crepa_request(ctx),
        **evaluation_request(ctx),
    }


def trigger(ctx: Context) -> str:
    """The words that call what is trained: the recipe's, or else the datasets' instance prompts."""
    if ctx.recipe.lora.trigger is not None:
        return ctx.recipe.lora.trigger
    own = {sample.trigger for sample in ctx.snapshot.samples if not sample.regularisation}
    return ", ".join(sorted(own - {""}))


def techniques(recipe: Recipe) -> dict[str, Any]:
    """The parts of the recipe that count only where they are in use."""
    parts: dict[str, TreadSettings | ScheduledSamplingSettings]
    parts = {"tread": recipe.tread, "scheduled_sampling": recipe.scheduled_sampling}
    return {name: settings.fingerprint_data() for name, settings in parts.items() if settings.enabled}


def crepa_request(ctx: Context) -> dict[str, Any]:
    """CREPA's part: the teacher's features and how they enter the loss; nothing where it is off."""
    if not ctx.recipe.crepa.crepa_enabled:
        return {}
    unseen = embed_frames.quarantined(ctx, LatentStore(ctx.store))
    features = {**embed_frames.request(ctx), "version": FRAMES.version, "quarantined": sorted(unseen)}
    return {"crepa": {**ctx.recipe.crepa.loss_data(), **features}}


def evaluation_request(ctx: Context) -> dict[str, Any]:
    """What is held out and what that decides; nothing where every clip is trained on."""
    settings = ctx.recipe.evaluation
    if not settings.holds_out:
        return {}
    chosen = sorted(held_out(settings, ctx.snapshot))
    return {"evaluation": settings.fingerprint_data(), "held_out": chosen}


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    found = encode_latents.needs(ctx) | embed_text.needs(ctx)
    if ctx.recipe.crepa.crepa_enabled:
        found["latents"] = found["latents"] + embed_frames.needs(ctx)["latents"]
    return found


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
        samples = self.ctx.snapshot.samples
        check_training(self.ctx, audio_only=all(sample.kind == "audio" for sample in samples))
        check_sharing(self.ctx)
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
        from ltxcore.training.plan import BatchPlan, steps_of_epochs

        settings = self.ctx.recipe.training
        if not settings.num_train_epochs:
            return self.ctx.recipe
        plan = BatchPlan.of(StoredSamples(self.ctx).entries(), settings)
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

    def run(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int = 0
    ) -> TrainResult | None:
        """Train from the newest checkpoint on, in as many processes as the recipe says, and draw the loss.

        Returns:
            None where the training has paused at the step `pause_at`, with a checkpoint, and is to go on.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            OptimizerMissing, BucketTooSmall: nothing is loaded then.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
            ProcessOutOfMemory, ProcessFailed: one of several processes failed.
        """
        from ltxcore.stages.connected import delete_connected
        from ltxcore.stages.samples import StoredSamples
        from ltxcore.training.extras import require_optimizer
        from ltxcore.training.plan import BatchPlan

        def tell(metrics: StepMetrics) -> None:
            self._sync()
            on_step(metrics)

        # Before minutes of loading.
        require_optimizer(self.recipe.training.optimizer)
        BatchPlan.of(StoredSamples(self.ctx).entries(), self.recipe.training)
        self._begin_record()
        if self.recipe.processes.count > 1:
            result = self._run_team(tell, should_stop, pause_at)
        else:
            result = self.compute(tell, should_stop, pause_at)
        if result is None:
            self._send_metrics()
            return None
        delete_connected(self.directory)
        self.plot()
        return result

    def _run_team(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int
    ) -> TrainResult | None:
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
            pause_at=pause_at,
            count=self.recipe.processes.count,
        )
        if not Team(job).run(on_step, should_stop):
            return None
        return training_result(self.directory, self.recipe.training.max_train_steps)

    def compute(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int = 0
    ) -> TrainResult | None:
        """Load, train, and write the LoRA: the whole of it, or the part of one process among several.

        Returns, Raises: as `Work.run`.
        """
        from ltxcore.stages.training_work import Work

        work = Work(
            self.ctx, self.recipe, self.directory, self.request, self.device, self._memory_plan.arrangement
        )
        return work.run(on_step, should_stop, pause_at)

    def plot(self) -> None:
        """Draw the losses as far as they are on record."""
        from ltxcore.training.plot import plot_losses

        plot_losses(self.metrics_file, self.loss_picture, self.evaluations_file)

    @property
    def metrics_file(self) -> Path:
        return self.directory / "metrics.jsonl"

    @property
    def evaluations_file(self) -> Path:
        return self.directory / "evaluations.jsonl"

    @property
    def loss_picture(self) -> Path:
        return self.directory / "loss.png"

    def finish(self, result: TrainResult) -> Outcome:
        """Send what MLflow still lacks and say what the training came to."""
        loras = sorted((self.directory / "lora").glob("*.safetensors"))
        report = self.directory / "dataset-report.csv"
        write_atomic(
            report, as_csv(dataset_rows(self.ctx.snapshot, held_out=self.request.get("held_out", ())))
        )
        self._send_metrics()
        evaluated = self._evaluated(result)
        self.tracker.set_tags(memory_tags(self.ctx, self._memory_plan))
        self.tracker.set_tags({name: str(value) for name, value in evaluated.items()})
        self.tracker.log_artifacts(loras, "lora")
        self.tracker.log_artifacts([self.loss_picture, report], "report")
        sent = self.tracker.finish("FINISHED")
        return Outcome(
            counts={"steps": result.steps, "done": result.steps, "hits": 0},
            facts={
                "first_loss": result.first_loss,
                "last_loss": result.last_loss,
                **evaluated,
                "seconds_a_step": result.seconds / result.steps,
                "resume": {"step": result.resumed_at, "notes": list(result.resume_notes)},
                "mlflow_run": self.tracker.run_id,
                "mlflow_error": sent.error,
                "directory": self.ctx.workspace.relative(self.directory),
            },
            files=tuple(
                output_file(self.ctx.workspace, path)
                for path in [*loras, self.loss_picture, self.metrics_file, self.evaluations_file]
                if path.exists()
            ),
        )

    def _evaluated(self, result: TrainResult) -> dict[str, Any]:
        """What the held-out clips said: for promotion, which compares losses on equal evaluation sets."""
        from ltxcore.stages.training_work import exports_best
        from ltxcore.training.early_stop import read_evaluations

        record = {e.step: e for e in read_evaluations(self.evaluations_file)}
        if result.best_step is None:
            return {}
        exported = result.best_step if exports_best(self.ctx.recipe, result) else result.steps
        best, averaged = self.directory / f"checkpoint-{result.best_step}", self.ctx.recipe.training.use_ema
        return {
            "evaluation_set": evaluation_set(self.ctx.recipe.evaluation, self.ctx.snapshot),
            "eval_loss": record[exported].decisive if exported in record else None,
            **({"eval_loss_ema": record[exported].ema} if averaged and exported in record else {}),
            "eval_loss_base": record[0].decisive if 0 in record else None,
            "eval_loss_best": record[result.best_step].decisive,
            "exported_step": exported,
            "best_step": result.best_step,
            "best_checkpoint": self.ctx.workspace.relative(best),
            "stopped_early": result.stopped_early,
        }

    def _begin_record(self) -> None:
        self.tracker.begin()
        self.tracker.log_params(self.ctx.recipe.fingerprint_data())
        self.tracker.set_tags(
            {"snapshot": self.ctx.snapshot.id, "training": request_fingerprint(TRAIN, self.request)[:16]}
        )

    def _sync(self) -> None:
        if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self._send_metrics()
            self._synced_s = time.monotonic()

    def _send_metrics(self) -> None:
        for file in (self.metrics_file, self.evaluations_file):
            if file.exists():
                self.tracker.sync(file)


def tracker(ctx: Context, directory: Path) -> MlflowRun:
    """The MLflow run of a training; its state lies in the training's directory, so other stages find it."""
    settings = ctx.recipe.tracking
    return MlflowRun(
        tracking_of(settings, ctx.workspace.mlflow),
        settings.tracker_project_name,
        settings.tracker_run_name or f"train-{directory.name}",
        directory / "mlflow.json",
    )
