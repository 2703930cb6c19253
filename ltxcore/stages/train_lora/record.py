"""The record of a training: its metrics, their picture, its MLflow run, and what it came to."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.memory.plan import MemoryPlan
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.stamp import STOPPED_AFTER, Outcome, output_file, request_fingerprint
from ltxcore.pipeline.data.held_out import evaluation_set
from ltxcore.pipeline.data.tables import as_csv, dataset_rows
from ltxcore.pipeline.plan.memory_tags import memory_tags
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.stages.train_lora.tracker import description, tracker
from ltxcore.store.blobs import write_atomic

if TYPE_CHECKING:
    from ltxcore.training.loop import TrainResult

SYNC_EVERY_S = 5.0


@dataclass
class TrainingRecord:
    """What is on record of one training, in its directory and in MLflow."""

    ctx: Context
    """Settled."""
    directory: Path
    """Of the training."""
    request: dict[str, Any]
    _synced_s: float = field(default=0.0, init=False)
    _sending: Future[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.tracker = tracker(self.ctx, self.directory)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")

    def begin(self) -> None:
        """Open the MLflow run, or take it up again."""
        self.tracker.begin()
        self.tracker.log_params(self.ctx.recipe.fingerprint_data())
        self.tracker.set_tags(description(self.ctx, self.directory))
        self.tracker.set_tags(
            {"snapshot": self.ctx.snapshot.id, "training": request_fingerprint(TRAIN, self.request)[:16]}
        )

    def sync(self) -> None:
        """Send the metrics to MLflow now and then, in a thread of its own. Called after each step.

        A step never waits for MLflow: what a slow server has not taken yet is sent when it has.
        """
        if self._sending is not None and not self._sending.done():
            return
        self.settle()
        if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self._synced_s = time.monotonic()
            self._sending = self._pool.submit(self._send)

    def settle(self) -> None:
        """Wait until nothing is being sent; each call to MLflow has a deadline.

        Raises:
            Exception: what is no fault of MLflow's, such as a full disk.
        """
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()

    def send(self) -> None:
        """Send MLflow the metrics that it lacks, and wait for it."""
        self.settle()
        self._send()

    def _send(self) -> None:
        for file in (self.metrics_file, self.evaluations_file):
            if file.exists():
                self.tracker.sync(file)

    def plot(self) -> None:
        """Draw the recorded losses."""
        from ltxcore.training.plot import plot_losses

        plot_losses(self.metrics_file, self.loss_picture, self.evaluations_file)

    @property
    def metrics_file(self) -> Path:
        """The losses and speeds of each step, a JSON object a line."""
        return self.directory / "metrics.jsonl"

    @property
    def evaluations_file(self) -> Path:
        """The losses on held-out clips, a JSON object a line."""
        return self.directory / "evaluations.jsonl"

    @property
    def loss_picture(self) -> Path:
        """The picture of the loss."""
        return self.directory / "loss.png"

    def finish(self, result: TrainResult, plan: MemoryPlan, device: str) -> Outcome:
        """Send the remaining records to MLflow, and return the outcome.

        Args:
            result: of the training.
            plan: the memory plan that it worked by.
            device: it computed on.
        """
        loras = sorted((self.directory / "lora").glob("*.safetensors"))
        report = self.directory / "dataset-report.csv"
        rates = Memo(self.ctx).rates(self.ctx.snapshot.samples)
        rows = dataset_rows(self.ctx.snapshot, held_out=self.request.get("held_out", ()), rates=rates)
        write_atomic(report, as_csv(rows))
        self.send()
        evaluated = self._evaluated(result)
        self.tracker.set_tags(memory_tags(self.ctx, plan))
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
                **({STOPPED_AFTER: result.stopped_after} if result.stopped_after else {}),
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
            threads=result.threads if device == "cpu" else self.ctx.recipe.threads,
        )

    def _evaluated(self, result: TrainResult) -> dict[str, Any]:
        """The held-out losses, for comparing trainings with equal evaluation sets."""
        from ltxcore.stages.train_lora.compute import exports_best
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
