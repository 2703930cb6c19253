"""train-lora: the adapter, trained on committed latents and text features, with its files and its record."""

from __future__ import annotations

import logging
import shutil
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
from ltxcore.stages.held_out import evaluation_set, held_out
from ltxcore.stages.memory_plans import plan_training
from ltxcore.stages.memory_record import memory_tags
from ltxcore.stages.reports import as_csv, dataset_rows
from ltxcore.stages.sample_steps import is_sample_step, step_directory
from ltxcore.stages.stamp import Outcome, Stamp, output_file, request_fingerprint
from ltxcore.stages.training_plan import choose_for_device, forced_arrangement
from ltxcore.store.blobs import write_atomic
from ltxcore.store.latents import LatentStore
from ltxcore.tracking.mlflow_run import MlflowRun, tracking_of

if TYPE_CHECKING:
    from ltxcore.stages.samples import StoredSamples
    from ltxcore.training.checkpoints import Checkpoint
    from ltxcore.training.evaluation import Evaluation
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
        **_evaluation_request(ctx),
    }


def _evaluation_request(ctx: Context) -> dict[str, Any]:
    """What is held out and what that decides; nothing where every clip is trained on."""
    settings = ctx.recipe.evaluation
    if not settings.holds_out:
        return {}
    chosen = sorted(held_out(settings, ctx.snapshot))
    return {"evaluation": settings.fingerprint_data(), "held_out": chosen}


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

    def run(
        self, on_step: Callable[[StepMetrics], None], should_stop: Callable[[], bool], pause_at: int = 0
    ) -> TrainResult | None:
        """Load, train from the newest checkpoint on, and write the LoRA and the loss picture.

        Returns:
            None where the training has paused at the step `pause_at`, with a checkpoint, and is to go on.

        Raises:
            MissingInput: a sample or a caption is not in the store.
            TrainingInterrupted: `should_stop` said so; the checkpoint is written.
        """
        import torch

        from ltxcore.memory.placement import Placement, place_connectors
        from ltxcore.models.loading import load_connectors, load_transformer
        from ltxcore.stages.samples import StoredSamples
        from ltxcore.training.loop import TrainingInterrupted, train
        from ltxcore.training.lora import load_weights, lora_parameters

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

        last, reached = self.recipe.training.max_train_steps, 0

        def tell(metrics: StepMetrics) -> None:
            nonlocal reached
            reached = metrics.step
            if is_sample_step(self.recipe, metrics.step, last):
                self._leave_sample(metrics.step, transformer)
            self._sync()
            on_step(metrics)

        def pauses() -> bool:
            # At the last step there is nothing to pause for.
            return 0 < pause_at <= reached < last

        try:
            result = train(
                transformer,
                connectors,
                samples,
                self.recipe,
                self.directory,
                run_fingerprint=request_fingerprint(TRAIN, self.request),
                max_tokens=self.ctx.source.text_max_tokens,
                placement=placement,
                evaluate=self._evaluation(samples, connectors),
                on_step=tell,
                should_stop=lambda: should_stop() or pauses(),
            )
        except TrainingInterrupted:
            if should_stop() or not pauses():
                raise
            self._send_metrics()
            return None
        if self._exports_best(result):
            load_weights(lora_parameters(transformer), self._best_checkpoint(result).lora)
        self._export(self.directory / "lora", transformer)
        self.plot()
        placement.remove()
        return result

    def _evaluation(self, samples: StoredSamples, connectors: Any) -> Evaluation | None:
        """What measures the held-out clips; None where there are none."""
        from ltxcore.training.evaluation import Evaluation

        settings = self.ctx.recipe.evaluation
        if not settings.holds_out:
            return None
        clips = samples.held_out()
        found = Evaluation(
            clips, samples.load, settings, connectors, self.ctx.source.text_max_tokens, self.device
        )
        logger.info("%d clips are held out; an evaluation is %d passes", len(clips), found.passes)
        return found

    def _export(self, directory: Path, transformer: Any) -> None:
        from ltxcore.training.export import Lineage, export_lora
        from ltxcore.training.lora import lora_parameters

        lineage = Lineage(self.request["transformer"], self.ctx.snapshot.id, self.ctx.recipe)
        export_lora(directory, LORA_NAME, lora_parameters(transformer), lineage)

    def _leave_sample(self, step: int, transformer: Any) -> None:
        """Leave the LoRA of a step to be rendered, as a whole or not at all."""
        target = step_directory(self.directory, step)
        temporary = target.with_name(f".unfinished-{target.name}")
        for leftover in (temporary, target):
            shutil.rmtree(leftover, ignore_errors=True)
        self._export(temporary, transformer)
        temporary.rename(target)

    def _exports_best(self, result: TrainResult) -> bool:
        return self.ctx.recipe.evaluation.export == "best" and result.best_step not in (None, result.steps)

    def _best_checkpoint(self, result: TrainResult) -> Checkpoint:
        from ltxcore.training.checkpoints import read_checkpoint

        return read_checkpoint(self.directory / f"checkpoint-{result.best_step}")

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
        from ltxcore.training.early_stop import read_evaluations

        record = {e.step: e.eval_loss for e in read_evaluations(self.evaluations_file)}
        if result.best_step is None:
            return {}
        exported = result.best_step if self._exports_best(result) else result.steps
        best = self.directory / f"checkpoint-{result.best_step}"
        return {
            "evaluation_set": evaluation_set(self.ctx.recipe.evaluation, self.ctx.snapshot),
            "eval_loss": record.get(exported),
            "eval_loss_base": record.get(0),
            "eval_loss_best": record[result.best_step],
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
