"""The summary of a pipeline run: what each stage did, from stamps and manifests alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.config.crepa_settings import PROJECTOR_FILE
from ltxcore.jobs.report.dataset_report import PAGE
from ltxcore.memory.plan import GIB
from ltxcore.pipeline.base.contract import FRAMES, JUDGE, LATENTS, PROBE, RENDER, STAGES, TRAIN
from ltxcore.pipeline.base.stamp import ManifestEntry, Stamp, read_manifest, read_stamp
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.workspace import Workspace

Row = dict[str, Any]
DECODERS = (LATENTS.name, FRAMES.name)


@dataclass(frozen=True)
class RunSummary:
    """What a person wants to know of a finished run."""

    snapshot: Snapshot | None
    """What probe-media found; None where it was no part of the run."""
    stages: list[tuple[ManifestEntry, Stamp]]

    def stamp(self, stage_name: str) -> Stamp | None:
        """The stamp of a stage; None where the run has none."""
        return next((stamp for entry, stamp in self.stages if entry.stage == stage_name), None)

    def files(self, workspace: Workspace, stage_name: str) -> list[Path]:
        """The output files of a stage, as whole paths."""
        stamp = self.stamp(stage_name)
        return [] if stamp is None else [workspace.root / file.path for file in stamp.outcome.files]


def read_summary(workspace: Workspace, run: Path) -> RunSummary | None:
    """The summary of a run, of the pipeline or of one stage; None where no stage has ended."""
    entries = [entry for stage in STAGES if (entry := read_manifest(run, stage)) is not None]
    stages = [(entry, read_stamp(workspace, entry)) for entry in entries]
    if not stages:
        return None
    probe = next((stamp for entry, stamp in stages if entry.stage == PROBE.name), None)
    snapshot = None if probe is None else workspace.load_snapshot(probe.outcome.facts["snapshot"])
    return RunSummary(snapshot, stages)


def stage_rows(workspace: Workspace, run: Path) -> list[Row]:
    """One row for each stage that a run had."""
    summary = read_summary(workspace, run)
    if summary is None:
        return []
    return [
        {
            "stage": entry.stage,
            "state": "up to date" if entry.up_to_date else "done",
            "why": entry.why,
            "done": entry.counts.get("done", 0),
            "hits": entry.counts.get("hits", 0),
            "seconds": round(entry.seconds, 1),
            "peak GiB": round(stamp.peak_rss_bytes / GIB, 2),
            "peak GPU GiB": round(stamp.peak_vram_bytes / GIB, 2),
            "process": entry.process,
        }
        for entry, stamp in summary.stages
    ]


def quarantined(summary: RunSummary) -> dict[str, str]:
    """Clip -> why, of those that encode-latents or embed-frames could not read."""
    stamps = [summary.stamp(name) for name in DECODERS]
    return {
        clip: why for stamp in stamps if stamp for clip, why in stamp.outcome.facts["quarantined"].items()
    }


def decodes(summary: RunSummary) -> bool:
    """Whether a stage of the run says which clips it could not read."""
    return any(summary.stamp(name) is not None for name in DECODERS)


def losses(summary: RunSummary) -> tuple[float, float] | None:
    """Loss of the first and the last steps, or None where there was no training."""
    stamp = summary.stamp(TRAIN.name)
    if stamp is None:
        return None
    return float(stamp.outcome.facts["first_loss"]), float(stamp.outcome.facts["last_loss"])


def stopped_after(summary: RunSummary) -> int | None:
    """The step after which somebody has stopped the training and kept it; None: nobody has."""
    stamp = summary.stamp(TRAIN.name)
    return None if stamp is None else stamp.stopped_after


@dataclass(frozen=True)
class HeldOutLosses:
    """What the held-out clips said."""

    base: float
    lora: float
    ema: float | None
    """Of the average of the weights, where one is kept."""

    def __str__(self) -> str:
        average = "" if self.ema is None else f" (average {self.ema:.4f})"
        return f"{self.base:.4f} -> {self.lora:.4f}{average}"


def held_out_losses(summary: RunSummary) -> HeldOutLosses | None:
    """The losses on held-out clips, or None where there are none."""
    stamp = summary.stamp(TRAIN.name)
    facts = {} if stamp is None else stamp.outcome.facts
    base, lora = facts.get("eval_loss_base"), facts.get("eval_loss")
    return None if base is None or lora is None else HeldOutLosses(base, lora, facts.get("eval_loss_ema"))


def gallery(workspace: Workspace, summary: RunSummary) -> Path | None:
    """The gallery page, or None where nothing was rendered."""
    files = summary.files(workspace, RENDER.name)
    return next((path for path in files if path.name == "index.html"), None)


def verdict(summary: RunSummary) -> str | None:
    """What the gate said, in a sentence; None where nothing was judged."""
    stamp = summary.stamp(JUDGE.name)
    return None if stamp is None else str(stamp.outcome.facts["sentence"])


def gate_page(workspace: Workspace, summary: RunSummary) -> Path | None:
    """The page of the gate, or None where nothing was judged."""
    files = summary.files(workspace, JUDGE.name)
    return next((path for path in files if path.suffix == ".html"), None)


def dataset_page(workspace: Workspace, summary: RunSummary) -> Path | None:
    """The dataset report, or None where it was deleted, or probe-media was no part of the run."""
    entry = next((entry for entry, _ in summary.stages if entry.stage == PROBE.name), None)
    if entry is None:
        return None
    page = (workspace.root / entry.stamp).parent / PAGE
    return page if page.exists() else None


def loras(workspace: Workspace, summary: RunSummary) -> list[Path]:
    """The LoRA files, without CREPA's projector that lies beside them."""
    files = summary.files(workspace, TRAIN.name)
    return [p for p in files if p.suffix == ".safetensors" and p.name != PROJECTOR_FILE]
