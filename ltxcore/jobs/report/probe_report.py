"""The page of a dataset that probe-media has just looked at."""

from __future__ import annotations

from pathlib import Path

from ltxcore.jobs.report.dataset_report import DatasetReport
from ltxcore.jobs.report.write_pages import of_snapshot, write_report
from ltxcore.pipeline.base.work import loaded
from ltxcore.stages.probe_media.trainable import NothingToTrain
from ltxcore.stages.probe_media.work import ProbeMedia


def report_probe(work: ProbeMedia) -> tuple[Path, DatasetReport]:
    """Write the page of a work whose outcome is known. No stamp names it: later stages add to it."""
    return write_report(of_snapshot(work.ctx, loaded(work.snapshot).id), work.asked.directory)


def refused_with(refusal: Exception, page: Path) -> NothingToTrain:
    """Why a dataset is refused, with the page that says so file by file."""
    return NothingToTrain(f"{refusal}\nFile by file: {page}")
