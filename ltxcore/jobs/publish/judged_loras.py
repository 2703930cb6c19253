"""LoRAs that a gate has judged, and champions made by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.judging.champions import Candidate, Champion, ChampionError, Champions, all_models
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import JUDGE, TRAIN
from ltxcore.pipeline.base.outputs import require_whole
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp, whole_stamps
from ltxcore.stages.judge_lora.work import CANDIDATE
from ltxcore.store.blobs import read_model
from ltxcore.store.workspace import Workspace


class UnknownLora(LookupError):
    """No LoRA of that training was judged, or more than one fits."""


@dataclass(frozen=True)
class JudgedLora:
    """A LoRA that judge-lora has compared."""

    candidate: Candidate
    directory: Path
    """Of its files."""


def find_judged(workspace: Workspace, model: str, training: str) -> JudgedLora:
    """A LoRA by the beginning of its training's fingerprint, as the newest comparison has it.

    Raises:
        UnknownLora: none fits, or several do.
        DamagedOutput: its record is not what was written.
    """
    stamps = [s for _, s in whole_stamps(workspace, JUDGE) if s.outcome.facts["model"] == model]
    fitting = [stamp for stamp in stamps if stamp.outcome.facts["training"].startswith(training)]
    found = sorted({stamp.outcome.facts["training"][:16] for stamp in fitting})
    if len(found) != 1:
        known = found or sorted({stamp.outcome.facts["training"][:16] for stamp in stamps})
        what = "more than one training begins with" if found else "no judged training begins with"
        raise UnknownLora(f"{what} {training!r}; those of {model} are: {', '.join(known) or 'none'}")
    newest = fitting[0]
    files = [file for file in newest.outcome.files if Path(file.path).name == CANDIDATE]
    require_whole(workspace, files)
    candidate = read_model(workspace.root / files[0].path, Candidate)
    return JudgedLora(candidate, workspace.root / newest.outcome.facts["lora"])


def promote_by_hand(workspace: Workspace, model: str, which: str) -> Champion:
    """Make a judged LoRA the champion, whatever its verdict was, or a version that was one.

    Args:
        which: a version's number, or the beginning of a training's fingerprint.

    Raises:
        UnknownLora: there is no such training.
        ChampionError: its files are not what was judged; the champion stays.
        DamagedOutput: see `find_judged`.
    """
    champions = Champions(workspace, model)
    if which.isdecimal() and int(which) in champions.numbers():
        return champions.roll_back(int(which))
    judged = find_judged(workspace, model, which)
    current = champions.current
    expected = None if current is None else current.record.version
    return champions.promote(judged.candidate, judged.directory, "hand", expected)


def is_champion(ctx: Context, run: Path) -> bool:
    """Whether the LoRA of a run is the champion of its recipe's gate.

    Raises:
        ChampionError: the champion is damaged.
    """
    entry, promotion = read_manifest(run, TRAIN), ctx.recipe.promotion
    if entry is None or promotion is None:
        return False
    current = Champions(ctx.workspace, promotion.model).current
    training = read_stamp(ctx.workspace, entry).fingerprint
    return current is not None and current.record.training == training


def list_models(workspace: Workspace) -> list[dict[str, Any]]:
    """Every model with its versions, the newest first; what is damaged says so."""
    return [_model(champions) for champions in all_models(workspace)]


def _model(champions: Champions) -> dict[str, Any]:
    found: dict[str, Any] = {"model": champions.model, "path": str(champions.link), "champion": None}
    try:
        current = champions.current
        found["champion"] = None if current is None else current.record.version
    except ChampionError as error:
        found["fault"] = str(error)
    found["versions"] = [_version(champions, number) for number in reversed(champions.numbers())]
    return found


def _version(champions: Champions, number: int) -> dict[str, Any]:
    try:
        return version_data(champions.version(number))
    except ChampionError as error:
        return {"version": number, "fault": str(error)}


def version_data(champion: Champion) -> dict[str, Any]:
    """A version for `--json`, without the long list of what it was trained on."""
    lineage = champion.record.lineage
    return {
        **champion.record.model_dump(mode="json", exclude={"lineage"}),
        "base": lineage.base,
        "snapshot": lineage.snapshot,
        "clips": len(lineage.trained_on),
        "directory": str(champion.directory),
    }
