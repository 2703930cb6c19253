"""Decides where a training begins: at the start, or at a checkpoint of this training or of one that it may
continue.

A training is identified by its request, plain JSON. Another request is another training. A few keys may
differ without changing the computation; differences are reported key by key.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ltxcore.config.optimizer_settings import ENDLESS
from ltxcore.memory.threads import set_threads, threads_in_use
from ltxcore.store.blobs import read_json, write_atomic, write_json
from ltxcore.training.checkpoints import (
    STATE,
    Checkpoint,
    latest,
    list_checkpoints,
    read_checkpoint,
)
from ltxcore.training.early_stop import EVALUATIONS_FILE
from ltxcore.training.metrics import METRICS_FILE

log = logging.getLogger(__name__)

LATEST, NONE = "latest", "none"
RESUME_FILE = "resume.json"
LENGTH = "training.max_train_steps"
EPOCHS = "training.num_train_epochs"
EXPORTED, BEST = "training.ema_export", "evaluation.export"
WITHOUT_EFFECT = ("lora.trigger", "trigger", EXPORTED, "training.ema_validation")
"""Keys that are in a request for the sake of the files alone."""
SHOWN = 60
"""Characters of a value in a message."""


class ForeignCheckpoint(ValueError):
    """A checkpoint of another training, which cannot be continued; says key by key why."""


class NoSuchCheckpoint(ValueError):
    """`resume_from_checkpoint` names a checkpoint that does not exist."""


@dataclass(frozen=True)
class Difference:
    """A key in which two requests differ."""

    key: str
    before: Any
    now: Any
    obstacle: str
    """Why the training cannot be continued over it; empty where it can."""

    def __str__(self) -> str:
        message = f"{self.key}: {_short(self.before)} -> {_short(self.now)}"
        return f"{message} ({self.obstacle})" if self.obstacle else message


@dataclass(frozen=True)
class Start:
    """Where a training begins, with notes for the log."""

    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()
    records: Mapping[str, bytes] = field(default_factory=dict)
    """What the record so far must hold: name of a file -> its content."""

    @property
    def step(self) -> int:
        """The step that the training goes on from; 0 is the beginning."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    def with_its_threads(self, asked: int | None, device: str) -> Start:
        """Compute with the checkpoint's number of threads, so that the training stays bit-equal.

        Args:
            asked: the recipe's number, which decides where there is one.
            device: that the training computes on; on a GPU nothing is changed.

        Returns:
            The same, with a note where the number is another than the checkpoint's or than this machine's.
        """
        if self.checkpoint is None or device != "cpu":
            return self
        before, now = self.checkpoint.threads, threads_in_use()
        if before is None:
            message = (
                f"it is not known how many threads its checkpoint was computed with; now there are {now}"
            )
        elif before == now:
            return self
        elif asked is not None:
            message = (
                f"threads: {before} -> {now}, as the recipe says: sums are rounded differently from now on"
            )
        else:
            set_threads(before)
            message = f"threads: {before}, as for its checkpoint; by itself this machine would take {now}"
        log.warning("%s", message)
        return replace(self, notes=(*self.notes, message))

    def note(self, directory: Path) -> None:
        """Write where the training begins, its number of threads, and the record so far into its directory.

        A record that is there is left as it is if it begins with that of the checkpoint.

        Lines after the checkpoint are dropped by whoever goes on writing it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        noted = {"step": self.step, "notes": list(self.notes), "threads": threads_in_use()}
        write_json(directory / RESUME_FILE, noted)
        for name, content in self.records.items():
            file = directory / name
            if not file.is_file():
                write_atomic(file, content)
            elif not file.read_bytes().startswith(content):
                log.warning("%s is not what was written and is put back from the checkpoint", file)
                write_atomic(file, content)


def find_start(
    directory: Path, run_fingerprint: str, request: Mapping[str, Any], choice: str, total: int
) -> Start:
    """Choose where to begin. Every process may ask; nothing is written.

    Args:
        directory: of this training; others lie beside it.
        run_fingerprint: of this training.
        request: all that the training depends on.
        choice: the recipe's resume_from_checkpoint.
        total: the steps of this training.

    Raises:
        ForeignCheckpoint: what was chosen is of a training that differs; names every key.
        NoSuchCheckpoint: a checkpoint was named that is not there.
        BrokenCheckpoint: the named one is broken.
    """
    if choice == NONE:
        return Start(None)
    if choice != LATEST:
        path = _named(directory, choice)
        named = read_checkpoint(path)
        changed = _explain(named, run_fingerprint, request, total, path)
        notes = (f"continued from {path}", *changed)
        return _logged(Start(named, notes, _records(named, path.parent, directory)))
    passed_over: list[str] = []
    own = latest(directory, passed_over)
    if own is not None:
        changed = _explain(own, run_fingerprint, request, total, directory)
        return _logged(Start(own, (*passed_over, *changed), own.records))
    found = _continuable(directory, request, total)
    if found is None:
        return _logged(Start(None, (*passed_over, *_others(directory, request, total))))
    place, other = found
    changed = _explain(other, run_fingerprint, request, total, place)
    notes = (*passed_over, f"continued from the training in {place.name}", *changed)
    return _logged(Start(other, notes, _records(other, place, directory)))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], done: int, total: int) -> list[Difference]:
    """Every key in which two requests differ, in alphabetical order.

    Args:
        before: the request of a checkpoint.
        now: the request of the training that would continue it.
        done: the checkpoint's step.
        total: the steps of the training that would continue it.
    """
    old, new = _leaves(before), _leaves(now)
    return [
        Difference(key, old.get(key), new.get(key), _obstacle(key, new, done, total))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _obstacle(key: str, now: Mapping[str, Any], done: int, total: int) -> str:
    if key == EXPORTED and (now.get("evaluation.early_stop_patience") or now.get(BEST) == "best"):
        return "the held-out loss of what is exported decides when to stop and which step is the best"
    if any(key == known or key.startswith(f"{known}.") for known in WITHOUT_EFFECT):
        return ""
    if key not in (LENGTH, EPOCHS):
        return "what was computed before would differ"
    schedule = now.get("training.lr_scheduler")
    if schedule not in ENDLESS:
        return f"the {schedule} schedule depends on the length; {' and '.join(ENDLESS)} do not"
    if total < done:
        return f"{done} steps are done already, and {total} are asked for"
    return ""


def _explain(
    checkpoint: Checkpoint, run_fingerprint: str, request: Mapping[str, Any], total: int, place: Path
) -> list[str]:
    """The differences that are allowed.

    Raises:
        ForeignCheckpoint: something does.
    """
    if checkpoint.run_fingerprint == run_fingerprint:
        return []
    found = differences(checkpoint.request, request, checkpoint.step, total)
    obstacles = [difference for difference in found if difference.obstacle]
    if obstacles or not found:
        listed = "\n".join(f"  {difference}" for difference in found)
        raise ForeignCheckpoint(
            f"{place} is of another training, {checkpoint.run_fingerprint[:16]}, and cannot be continued as "
            f"{run_fingerprint[:16]}:\n{listed or '  the code of a stage has a new version'}\n"
            "Set these keys back, or write training.resume_from_checkpoint: none to begin anew"
        )
    return [f"changed since step {checkpoint.step}: {difference}" for difference in found]


def _named(directory: Path, choice: str) -> Path:
    path = Path(choice).expanduser()
    places = [path] if path.is_absolute() or path.parent != Path() else [directory / path]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        there = ", ".join(p.name for p in list_checkpoints(directory)) or "none"
        raise NoSuchCheckpoint(
            f"training.resume_from_checkpoint: there is no {places[0]}; this training has: {there}. Write "
            f"one of them, the path of another training's, {LATEST} or {NONE}"
        )
    return found


def _siblings(directory: Path) -> list[Path]:
    """Directories of other trainings beside this one, the newest first."""
    if not directory.parent.is_dir():
        return []
    others = [p for p in directory.parent.iterdir() if p.is_dir() and p != directory and list_checkpoints(p)]
    return sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_request(directory: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and request of the newest checkpoint, unverified; None where it cannot be read."""
    newest = list_checkpoints(directory)[-1] / STATE
    try:
        state = read_json(newest)
        return state["step"], state["request"]
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s)", newest, error)
        return None


def _continuable(directory: Path, request: Mapping[str, Any], total: int) -> tuple[Path, Checkpoint] | None:
    """Another training that this one continues, and its newest whole checkpoint."""
    for path in _siblings(directory) if request else []:
        known = _newest_request(path)
        found = [] if known is None else differences(known[1], request, known[0], total)
        # Without a difference it is the same training, done elsewhere on purpose.
        if not found or any(difference.obstacle for difference in found):
            continue
        checkpoint = latest(path)
        if checkpoint is not None:
            return path, checkpoint
    return None


def _others(directory: Path, request: Mapping[str, Any], total: int) -> list[str]:
    """A note on the newest other training, to make clear that it was not continued."""
    for path in _siblings(directory) if request else []:
        known = _newest_request(path)
        found = [] if known is None else differences(known[1], request, known[0], total)
        if known is not None and found:
            changed = "; ".join(map(str, found))
            return [f"begun anew: the training in {path.name} (step {known[0]}) differs in {changed}"]
    return []


def records_in(directory: Path) -> dict[str, bytes]:
    """The record of a training as it is now, for a checkpoint."""
    files = (directory / name for name in (METRICS_FILE, EVALUATIONS_FILE))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def _records(checkpoint: Checkpoint, source: Path, directory: Path) -> Mapping[str, bytes]:
    """The part of a checkpoint's record that is used; from another training only the steps' measures."""
    if source.resolve() == directory.resolve():
        return checkpoint.records
    return {name: content for name, content in checkpoint.records.items() if name == METRICS_FILE}


def _logged(start: Start) -> Start:
    for note in start.notes:
        log.warning("%s", note)
    return start


def _leaves(data: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{at}.{key}" if at else str(key)
        found |= _leaves(value, name) if isinstance(value, Mapping) and value else {name: value}
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
