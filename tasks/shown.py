"""What the page of a stage's run shows of its work: tables, pictures and links. Imported when it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ltxcore.execution.memory_plans import plan_rows
from ltxcore.jobs.report.page import as_markdown
from ltxcore.jobs.report.probe_report import refused_with, report_probe
from ltxcore.pages.markdown import escaped
from ltxcore.pipeline.base.work import Result, Work, loaded
from ltxcore.pipeline.data.tables import bucket_rows, dataset_rows
from ltxcore.stages.embed_frames.work import EmbedFrames
from ltxcore.stages.encode_latents.work import EncodeLatents
from ltxcore.stages.judge_lora.page import gate_rows
from ltxcore.stages.judge_lora.work import PAGE as GATE_PAGE
from ltxcore.stages.judge_lora.work import JudgeLora
from ltxcore.stages.probe_media.work import ProbeMedia
from ltxcore.stages.render_validation.session import CONTACT_SHEET, PAGE, Session
from ltxcore.stages.render_validation.work import RenderValidation
from ltxcore.stages.train_lora.work import TrainLora
from tasks import artifacts
from tasks.loss_picture import LossPicture


def show_loaded(work: Work[Any]) -> None:
    """What is known once a work is loaded: for a training, what each stage needs of memory."""
    if isinstance(work, TrainLora):
        training = loaded(work.training)
        rows = plan_rows(training.ctx, device=training.device)
        artifacts.table("memory-plan", rows, "What each stage needs of memory")


@contextmanager
def shown_meanwhile(work: Work[Any]) -> Iterator[None]:
    """Show what can be seen while a unit is being done: the losses of a training."""
    if not isinstance(work, TrainLora):
        yield
        return
    picture = LossPicture(loaded(work.training).record)
    work.watchers.append(picture)
    try:
        yield
    finally:
        picture.plot()


def show_result(work: Work[Any], result: Result) -> None:
    """What came of a work.

    Raises:
        NothingToTrain: a dataset is refused; the words name its report.
    """
    if isinstance(work, ProbeMedia):
        _show_dataset(work, result)
    elif isinstance(work, EncodeLatents):
        _show_quarantined(work, result, "quarantined", "Clips that could not be encoded, and why")
    elif isinstance(work, EmbedFrames):
        description = "Clips whose frames could not be read, and why"
        _show_quarantined(work, result, "quarantined-frames", description)
    elif isinstance(work, RenderValidation) and work.session.prompts:
        _show_gallery(work.session)
    elif isinstance(work, JudgeLora):
        _show_gate(work)


def _show_dataset(work: ProbeMedia, result: Result) -> None:
    artifacts.table("dataset-report", work.rows(), "Every file, its verdict and why")
    artifacts.table("buckets", bucket_rows(loaded(work.snapshot)), "Samples of equal shape")
    page, report = report_probe(work)
    artifacts.markdown("dataset", as_markdown(report), "What the dataset holds")
    artifacts.link("dataset-page", page, work.ctx.workspace.root, "The dataset, clip by clip")
    if result.refusal is not None:
        raise refused_with(result.refusal, page) from result.refusal


def _show_quarantined(work: Work[Any], result: Result, key: str, description: str) -> None:
    if errors := result.outcome.facts["quarantined"]:
        rows = [row for row in dataset_rows(work.ctx.snapshot, errors) if row["verdict"] == "quarantined"]
        artifacts.table(key, rows, description)


def _show_gate(work: JudgeLora) -> None:
    judged, root = loaded(work.judged), work.ctx.workspace.root
    artifacts.markdown("verdict", str(escaped(judged.sentence)), "What became of the LoRA")
    if rows := gate_rows(judged.gate.findings):
        artifacts.table("gate", rows, "What was asked, and what was measured")
    artifacts.link("gate-page", work.asked.directory / GATE_PAGE, root, "The comparison with the champion")


def _show_gallery(session: Session) -> None:
    root, step = session.ctx.workspace.root, session.ctx.step
    sheet, page = session.directory / CONTACT_SHEET, session.directory / PAGE
    if step:
        artifacts.picture("samples", sheet, f"Frames of every rendering, base and LoRA, after step {step}")
        artifacts.link(f"samples-step-{step}", page, root, f"Base and LoRA after step {step}")
        return
    artifacts.picture("contact-sheet", sheet, "Frames of every rendering")
    artifacts.link("gallery", page, root, "Base and LoRA side by side")
    artifacts.link("lora", session.lora.file, root, "The LoRA for diffusers")
