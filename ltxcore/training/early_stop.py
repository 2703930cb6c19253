"""Decides when a training is evaluated, which step is the best, and when to stop, from the record of losses.

The record is a file, so that a resumed training decides like an undisturbed one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.store.blobs import write_atomic
from ltxcore.training.evaluation import LOSS
from ltxcore.training.processes import Processes
from ltxcore.training.step import require_finite

logger = logging.getLogger(__name__)

EVALUATIONS_FILE = "evaluations.jsonl"
EMA = "ema_"
EMA_LOSS = f"{EMA}{LOSS}"


@dataclass(frozen=True)
class Evaluated:
    """The losses after a step; step 0 is the base."""

    step: int
    eval_loss: float
    eval_s: float
    """How long it took."""
    measures: dict[str, float] = field(default_factory=dict)
    """The losses by modality and sigma; those of the average begin with `ema_`."""
    ema: float | None = None
    """The loss with the average of the weights; None where none is kept."""
    exports_ema: bool = False
    """Whether the LoRA is the average, so that its loss is the one that decides."""

    @property
    def decisive(self) -> float:
        """The loss of the weights that are exported."""
        return self.ema if self.exports_ema and self.ema is not None else self.eval_loss


@dataclass(frozen=True)
class Standing:
    """The conclusions from a record of evaluations."""

    best_step: int
    best_loss: float
    without_improvement: int
    """Evaluations since the loss last fell by more than the least that counts."""


def standing(record: Sequence[Evaluated], min_delta: float) -> Standing:
    """Judge a record, oldest first; the base, where it is in it, is the first to beat.

    What counts is the loss of the weights that are exported. The best step is the one with the lowest, the
    earlier of two. An improvement is a loss that is lower by more than `min_delta` than the last that
    was one.

    Raises:
        ValueError: the record is empty.
    """
    if not record:
        raise ValueError("there is no evaluation to judge")
    best = best_evaluated(record)
    improved, since = record[0].decisive, 0
    for evaluated in record[1:]:
        if evaluated.decisive < improved - min_delta:
            improved, since = evaluated.decisive, 0
        else:
            since += 1
    return Standing(best.step, best.decisive, since)


def best_evaluated(record: Sequence[Evaluated]) -> Evaluated:
    """The one with the lowest loss, the earlier of two."""
    return min(record, key=lambda e: (e.decisive, e.step))


def best_of(record: Sequence[Evaluated]) -> int | None:
    """The trained step with the lowest loss; None where none is evaluated."""
    trained = [evaluated for evaluated in record if evaluated.step > 0]
    return standing(trained, 0.0).best_step if trained else None


class Evaluate(Protocol):
    """Measures a model: its losses by name, including `eval_loss`; None if it was asked to stop."""

    def __call__(self, model: Any, should_stop: Callable[[], bool]) -> dict[str, float] | None: ...


Averaged = Callable[[Any], AbstractContextManager[None] | None]
"""Lets a model compute with the average of its weights while the context lasts; None: there is no average."""


class Guide:
    """Evaluates the model when it is due, keeps the record, and decides from it."""

    def __init__(
        self,
        path: Path,
        evaluate: Evaluate | None,
        settings: EvaluationSettings,
        continue_from: int,
        last: int,
        among: Processes,
        averaged: Averaged = lambda model: None,
        exports_ema: bool = False,
        as_base: Callable[[Any], AbstractContextManager[None]] = lambda model: nullcontext(),
    ) -> None:
        """Go on with the record in `path`, without what it has of steps after `continue_from`.

        Args:
            path: the record.
            evaluate: None: no clip is held out.
            settings: how often, and when to stop.
            continue_from: steps that are done.
            last: steps that there are.
            among: the processes that train together; all of them look, and the first keeps the record.
            averaged: lets the model compute with the average of its weights, which is then measured, too.
            exports_ema: whether the average decides.
            as_base: makes the model the base, where the adapter has an effect before the first step.
        """
        self._path, self._evaluate, self._settings = path, evaluate, settings
        self._last, self._among = last, among
        self._averaged, self._exports_ema, self._as_base = averaged, exports_ema, as_base
        self._record = [e for e in read_evaluations(path) if e.step <= continue_from]
        if evaluate is not None and among.first:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, "".join(map(_line, self._record)).encode())

    def end_at(self, step: int) -> None:
        """Take a step as the last one."""
        self._last = step

    def look(self, model: Any, step: int, should_stop: Callable[[], bool]) -> bool:
        """Evaluate the model as it is after `step`, where that is due and not on record.

        Due are the base, every interval, and the last step.

        Returns:
            False if `should_stop` interrupted a due evaluation, which is then repeated on resuming.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        if self._evaluate is None or not self._due(step):
            return True
        started = time.monotonic()
        # Verdicts must be the same everywhere, to the last bit: they are the first process's.
        losses = self._among.agreed(self._losses(self._evaluate, model, step, should_stop))
        if losses is None:
            return False
        total, ema = losses.pop(LOSS), losses.pop(EMA_LOSS, None)
        require_finite("held-out loss", total, step, ["the held-out clips"])
        require_finite("held-out loss of the average", ema or 0.0, step, ["the held-out clips"])
        self._add(Evaluated(step, total, time.monotonic() - started, losses, ema, self._exports_ema))
        if self.enough:
            patience = self._settings.early_stop_patience
            logger.info("%d evaluations in a row brought no improvement: training ends here", patience)
        return True

    def _losses(
        self, evaluate: Evaluate, model: Any, step: int, should_stop: Callable[[], bool]
    ) -> dict[str, float] | None:
        """The losses of the model as it is, and with the average of its weights; None where cut short."""
        with self._as_base(model) if step == 0 else nullcontext():
            own = evaluate(model, should_stop)
        average = self._averaged(model)
        if own is None or average is None:
            return own
        if step == 0:
            # The average begins as the weights.
            return own | _of_average(own)
        with average:
            found = evaluate(model, should_stop)
        return None if found is None else own | _of_average(found)

    def _due(self, step: int) -> bool:
        if self.enough or any(e.step == step for e in self._record):
            return False
        return step % self._settings.eval_step_interval == 0 or step == self._last

    def _add(self, found: Evaluated) -> None:
        self._record.append(found)
        if not self._among.first:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(found))
        average = "" if found.ema is None else f", of the average {found.ema:.5f}"
        logger.info("held-out loss after step %d: %.5f%s", found.step, found.eval_loss, average)

    @property
    def best_step(self) -> int | None:
        """The trained step with the lowest loss; None where none is evaluated."""
        return best_of(self._record)

    @property
    def enough(self) -> bool:
        """Whether the loss has not improved for as long as the settings wait."""
        patience = self._settings.early_stop_patience
        if not patience or not self._record:
            return False
        return standing(self._record, self._settings.early_stop_min_delta).without_improvement >= patience


def read_evaluations(path: Path) -> list[Evaluated]:
    """The record, oldest first; a last line that a crash cut short is left out, and no file is no lines."""
    if not path.exists():
        return []
    *whole, _cut_short = path.read_text(encoding="utf-8").split("\n")
    return [Evaluated(**json.loads(line)) for line in whole]


def _of_average(losses: dict[str, float]) -> dict[str, float]:
    return {f"{EMA}{name}": value for name, value in losses.items()}


def _line(evaluated: Evaluated) -> str:
    return json.dumps(asdict(evaluated), allow_nan=False) + "\n"
