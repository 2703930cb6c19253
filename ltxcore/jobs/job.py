"""A job in this process: a recipe and its datasets in a workspace, for a notebook or a script.

What it leaves is what `ltx2 run` leaves: either finds the other's results up to date. All stages share this
process and its memory here; `ltx2 run` gives each a process of its own.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ltxcore.config.errors import nearest
from ltxcore.config.recipe import Recipe
from ltxcore.execution.drawn_seed import with_seeds
from ltxcore.execution.execution import Execution, find_result
from ltxcore.execution.kept_job import keep_job, keep_recipe
from ltxcore.execution.memory_plans import plan_rows
from ltxcore.execution.runner import Hooks, open_execution, run_work
from ltxcore.execution.stage_code import StageCode, code_of
from ltxcore.jobs.checks.job_checks import check_clips, check_job, check_stage
from ltxcore.jobs.pipeline import begin_run, end_run, training_turns
from ltxcore.jobs.report.probe_report import refused_with, report_probe
from ltxcore.jobs.report.run_summary import stage_rows
from ltxcore.jobs.report.write_pages import write_report
from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import find_adapter
from ltxcore.models.files.source import prepare_model
from ltxcore.models.teacher import prepare_teacher
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.pipeline.base.contract import (
    LATENTS,
    PROBE,
    RENDER,
    TEXT,
    TRAIN,
    MissingInput,
    Stage,
    asked_stages,
    stage_named,
)
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.base.progress import ProgressState
from ltxcore.pipeline.base.stamp import Stamp, read_manifest, read_stamp
from ltxcore.pipeline.base.work import Result, Stopped, Work, never
from ltxcore.pipeline.data.tables import Row
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.stages.render_validation.standalone_models import fetch_models
from ltxcore.store.bf16 import from_bits
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import Sample, Snapshot
from ltxcore.store.workspace import LATEST, Workspace

if TYPE_CHECKING:
    import torch

    from ltxcore.models.text.caption_encoder import TextFeatures
    from ltxcore.training.metrics import StepMetrics


class Job:
    """A recipe and its datasets in a workspace.

    Args:
        workspace: directory of the store, the runs and the models; made where it is not there.
        datasets: the dataset file.
        recipe: the recipe, or its file. None: the defaults.
        run: a name for the run's folder, which keeps recipe, datasets and seeds; an old one's are taken up.
            Empty: a new one.
        listener: is called with how far a stage is, up to four times a second.

    Raises:
        ConfigError: a file is not there or is wrong.
    """

    def __init__(
        self,
        workspace: str | Path,
        datasets: str | Path = "datasets.yaml",
        recipe: Recipe | str | Path | None = None,
        *,
        run: str = "",
        listener: Callable[[ProgressState], None] | None = None,
    ) -> None:
        self.workspace = Workspace(workspace)
        self.folder = self.workspace.run(run or f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        if isinstance(recipe, Recipe):
            keep_recipe(self.folder, recipe)
        file = "" if recipe is None or isinstance(recipe, Recipe) else str(recipe)
        kept = keep_job(self.folder, file, datasets_file=str(datasets))
        if kept.datasets is None:
            raise RuntimeError(f"{self.folder} keeps no datasets although it was given some")
        ctx = context_here(
            self.workspace,
            kept.recipe,
            kept.datasets.file,
            LATEST,
            datasets_origin=kept.datasets.origin,
        )
        self._ctx = with_seeds(ctx, self.folder)
        self._listener = listener

    @property
    def ctx(self) -> Context:
        """What the stages are run for: this run's snapshot, or the workspace's latest where there is none."""
        entry = read_manifest(self.folder, PROBE)
        if entry is None:
            return self._ctx
        snapshot = str(read_stamp(self.workspace, entry).outcome.facts["snapshot"])
        return replace(self._ctx, snapshot_id=snapshot)

    # --- run ---

    def run(self, stage: str | StageCode, *, step: int = 0) -> Stamp:
        """Run one stage to its end; where its result is in place, nothing is done.

        Ctrl-C lets a training write its checkpoint first; the same call goes on there.

        Args:
            stage: its name, or the code of a stage that is none of the project's.
            step: of render-validation: the step of a training that has paused. 0: the end.

        Returns:
            The record of its result.

        Raises:
            UnknownStage: with the nearest known name.
            MissingInput: an earlier stage has to run first.
            JobRefused: the stage would refuse the recipe or the machine.
            StageOutOfMemory: the next call takes a smaller plan.
        """
        code = code_of(stage_named(stage)) if isinstance(stage, str) else stage
        ctx = replace(self.ctx, step=step) if step else self.ctx
        with self.workspace.going_on(self.folder):
            self._run(code, ctx)
        entry = read_manifest(self._folder_of(ctx), code.stage)
        if entry is None:
            raise RuntimeError(f"{code.stage.name} is not noted in {self.folder}")
        return read_stamp(self.workspace, entry)

    def run_all(self) -> list[Row]:
        """Run every stage that the recipe asks for, and write the dataset's page. Nothing is uploaded.

        Returns:
            A row a stage, as `summary`.

        Raises:
            JobRefused: all that some stage would refuse later, before the first one starts.
        """
        with self.workspace.going_on(self.folder):
            begin_run(self._ctx, self.folder)
            check_job(self._ctx, Here())
            self._prepare_models()
            # As soon as the model says how many blocks it has.
            check_job(self._ctx, Here())
            for stage in asked_stages(self._ctx.recipe):
                if stage is not PROBE:
                    check_clips(self.ctx)
                if stage is TRAIN and find_result(TRAIN, self.ctx)[1] is None:
                    for turn in training_turns(self.ctx):
                        self._run(code_of(turn.stage), turn.ctx, turn.pause_at)
                else:
                    self._run(code_of(stage), self.ctx)
            end_run(self.ctx, self.folder)
        return self.summary()

    def _run(self, code: StageCode, ctx: Context, pause_at: int = 0) -> None:
        stage = code.stage
        if stage.models:
            self._prepare_models()
        execution = open_execution(
            stage, ctx, self._folder_of(ctx), check=check_stage, listener=self._listener, code=code
        )
        if execution is None:
            return
        ended = run_work(execution, _JobHooks(stage), pause_at)
        if isinstance(ended, Stopped) and not ended.paused_at:
            raise KeyboardInterrupt(f"{stage.name} was stopped: {ended.kept}")

    def _folder_of(self, ctx: Context) -> Path:
        # The samples of a step are a part of the run, and not its result.
        return self.folder / f"step-{ctx.step:06d}" if ctx.step else self.folder

    def _prepare_models(self) -> None:
        """See that the models of the recipe are on this machine: found, made (the tiny one) or fetched."""
        recipe = self._ctx.recipe
        for adapter in recipe.validation.adapter_paths:
            find_adapter(adapter, fetch=True)
        fetch_models(recipe)
        try:
            self._ctx.source  # noqa: B018
        except ModelError:
            prepare_model(recipe.model, self.workspace.models)
        if recipe.crepa.crepa_enabled:
            try:
                self._ctx.teacher  # noqa: B018
            except ModelError:
                prepare_teacher(recipe.crepa, self.workspace.models)

    # --- look ---

    @property
    def snapshot(self) -> Snapshot:
        """Every file of the datasets with its verdict.

        Raises:
            UnknownSnapshot: probe-media has not run.
        """
        return self.ctx.snapshot

    def samples(self) -> tuple[Sample, ...]:
        """The clips that are taken, as the training sees them."""
        return self.snapshot.samples

    def latents(self, sample: Sample | str) -> dict[str, torch.Tensor]:
        """The committed latents of a clip, normalised, on the CPU.

        Args:
            sample: the clip, or its id.

        Returns:
            `video` `[C, F, H, W]` where it has pictures, and `audio` `[L, D]` where it has sound.

        Raises:
            LookupError: no clip has that id.
            MissingInput: encode-latents has not run, or could not read the clip.
        """
        if isinstance(sample, str):
            sample = _with_id(self.samples(), sample)
        ctx = self.ctx
        store = LatentStore(ctx.store)
        spaces = spaces_of(ctx, store)
        keys = {}
        if sample.kind != "audio":
            keys["video"] = spaces.picture_key(sample).value
        if sample.audio is not None:
            keys["audio"] = spaces.audio_key(sample, sample.audio).value
        if store.missing(keys.values()) or any(store.error(key) for key in keys.values()):
            raise MissingInput(TRAIN, f"the latents of {sample.id}", LATENTS)
        return {name: from_bits(store.read(key)) for name, key in keys.items()}

    def features(self, caption: str) -> TextFeatures:
        """Gemma's features of a caption or prompt, real tokens only: `video` `[T, D]` and `audio` `[T, Da]`.

        `audio` is None for a version that has one feature for both modalities, as 2.0 has.

        Raises:
            MissingInput: embed-text has not run for it.
        """
        from ltxcore.stages.train_lora.stored_samples import StoredFeatures

        stored = StoredFeatures(self.ctx)
        if stored.missing([caption]):
            raise MissingInput(TRAIN, f"the text features of {caption!r}", TEXT)
        return stored.load(caption)

    def plan(self) -> list[Row]:
        """What each stage that loads models would need of memory on this machine, in GiB."""
        from ltxcore.memory.device import pick_device

        self._prepare_models()
        return plan_rows(self.ctx, device=pick_device())

    def summary(self) -> list[Row]:
        """What each stage did in this run so far: done, hits, seconds and peaks of memory."""
        return stage_rows(self.workspace, self.folder)

    def report(self) -> Path:
        """Write the page of the dataset, clip by clip, and return it."""
        return write_report(self.ctx)[0]

    # --- what was trained ---

    def losses(self) -> list[StepMetrics]:
        """What each step of the training measured, those of a training that goes on included."""
        from ltxcore.training.metrics import METRICS_FILE, read_metrics

        return read_metrics(self.training_folder / METRICS_FILE)

    def loras(self) -> list[Path]:
        """The LoRA's files, in diffusers' and in ComfyUI's layout.

        Raises:
            RuntimeError: the training is not finished.
        """
        return [path for path in self._outputs(TRAIN) if path.suffix == ".safetensors"]

    def gallery(self) -> Path:
        """The page with the renderings of the base and of the LoRA.

        Raises:
            RuntimeError: render-validation has not run, or the recipe has it render nothing.
        """
        for path in self._outputs(RENDER):
            if path.name == "index.html":
                return path
        raise RuntimeError("there is no gallery: validation.validation_disable is set")

    @property
    def training_folder(self) -> Path:
        """Where the training of this recipe and data keeps its checkpoints and metrics."""
        from ltxcore.stages.render_validation.rendered_lora import training_directory

        return training_directory(self.ctx)

    def _outputs(self, stage: Stage) -> list[Path]:
        _, stamp = find_result(stage, self.ctx)
        if stamp is None:
            raise RuntimeError(f"{stage.name} has no result yet; job.run({stage.name!r}) makes it")
        return [self.workspace.root / file.path for file in stamp.outcome.files]


class _JobHooks(Hooks):
    """What a job adds: the dataset's page, and that Ctrl-C stops a training at a step's end."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @contextmanager
    def device(self) -> Iterator[Callable[[], bool]]:
        if self._stage is not TRAIN:
            yield never
            return
        with stop_on_interrupt() as should_stop:
            yield should_stop

    def show(self, execution: Execution, work: Work[Any], result: Result) -> None:
        from ltxcore.stages.probe_media.work import ProbeMedia

        if isinstance(work, ProbeMedia):
            page, _ = report_probe(work)
            if result.refusal is not None:
                raise refused_with(result.refusal, page) from result.refusal


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Give a `should_stop()` that turns true with the first Ctrl-C; the second interrupts. Main thread."""
    received = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGINT, before)


def _with_id(samples: Sequence[Sample], sample_id: str) -> Sample:
    found = {sample.id: sample for sample in samples}
    if sample_id not in found:
        raise LookupError(f"no clip is {sample_id!r}; {nearest(sample_id, found)}")
    return found[sample_id]
