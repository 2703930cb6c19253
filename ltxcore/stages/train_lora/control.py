"""What people ask of a training that goes on: to save, to be sampled, or to stop and be kept.

A request is a file in the training's directory, made whole and by one alone, so that two clicks are one.
The training looks for it after each step. What it decides is on record before the request goes: a training
that is killed in between does the same after its next start, at the same step.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from ltxcore.config.base import Strict
from ltxcore.config.recipe import Recipe
from ltxcore.stages.train_lora.sample_steps import is_sample_step
from ltxcore.store.blobs import Blobs, DamagedFile, read_model, write_json
from ltxcore.training.control import Wishes

logger = logging.getLogger(__name__)

Kind = Literal["save", "sample", "stop"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FOLDER: Final = "control"
ONE_CLICK_S: Final = 10.0
"""What is asked for again within this time is the same click."""
ON_REQUEST: Final = -1
"""Of a training's `pause_at`: pause only where somebody asks for a sample."""


class Request(Strict):
    """A request that waits to be read."""

    asked_s: float
    """When; a `time.time()`."""
    step: int
    """The steps that were done then: it counts from there on, also after a restart further back."""


class Answer(Strict):
    """The last request of its kind that had its effect."""

    asked_s: float
    step: int
    """The step after which."""


class Decisions(Strict):
    """What was asked of a training, for as long as its directory lasts."""

    sampled: tuple[int, ...] = ()
    """Steps to be sampled beside those of the recipe."""
    last: int | None = None
    """The last step; None: the recipe's length counts."""
    pauses: int = 0
    """How often it has paused for a sample that somebody asked for."""


@dataclass(frozen=True)
class Requests:
    """The requests to the training in a directory, from outside."""

    training: Path

    def ask(self, kind: Kind, asked_s: float, step: int) -> bool:
        """Ask the training for something; False where that is asked for, or has just been done, already.

        Args:
            kind: what for.
            asked_s: when it was clicked, as a `time.time()`.
            step: the steps that are done, as far as is known.
        """
        if self.is_same_click(kind, asked_s):
            return False
        request = Request(asked_s=asked_s, step=step)
        try:
            Blobs(_folder(self.training)).create(kind, json.dumps(request.model_dump()).encode())
        except FileExistsError:
            return False
        return True

    def close(self, step: int) -> None:
        """Answer what was asked too late: the training is over, after `step`, and no later one must do it."""
        for kind in KINDS:
            if self.waits(kind):
                request = _read_request(self.training, kind)
                if request is not None:
                    _answer(self.training, kind, request, step)

    def is_same_click(self, kind: Kind, asked_s: float) -> bool:
        """Whether what was asked at a time came with the last request of its kind that had its effect."""
        before = self.answer(kind)
        return before is not None and abs(asked_s - before.asked_s) < ONE_CLICK_S

    def waits(self, kind: Kind) -> bool:
        """Whether a request of this kind has not been read yet."""
        return _request_file(self.training, kind).exists()

    def answer(self, kind: Kind) -> Answer | None:
        """The last request of its kind that had its effect; None where there was none."""
        file = _answer_file(self.training, kind)
        return read_model(file, Answer) if file.exists() else None


def decisions(training: Path) -> Decisions:
    """What was asked of the training in a directory so far."""
    file = _decisions_file(training)
    return read_model(file, Decisions) if file.exists() else Decisions()


def go_on_to_the_end(training: Path) -> int | None:
    """Take back that a training was stopped and kept; the step after which it was, None where it was not."""
    known = decisions(training)
    if known.last is not None:
        _decide(training, known.model_copy(update={"last": None}))
    return known.last


class TrainingControl:
    """The requests, as the training in a directory reads them and follows them.

    Args:
        training: its directory.
        recipe: with its length in steps.
        pauses: whether it pauses for a sample that is asked for; else its LoRA is left for a later rendering.
    """

    def __init__(self, training: Path, recipe: Recipe, pauses: bool) -> None:
        self._training, self._recipe, self._pauses = training, recipe, pauses
        self._known = decisions(training)
        self._wished_at = 0

    @property
    def last(self) -> int | None:
        """The step that somebody has made the last one."""
        return self._known.last

    def is_sampled(self, step: int) -> bool:
        """Whether the LoRA of a step is left for rendering, be it by the recipe or on request."""
        last = self._recipe.training.max_train_steps if self.last is None else self.last
        return is_sample_step(self._recipe, step, last) or (step < last and step in self._known.sampled)

    def is_wished(self, step: int) -> bool:
        """Whether somebody asked for a sample, and gets it after this step."""
        return step > 0 and step == self._wished_at

    def pauses_after(self, step: int) -> bool:
        """Whether the training pauses after a step because somebody asked for a sample."""
        return self._pauses and self.is_wished(step)

    def read(self, step: int, total: int, trained: bool) -> Wishes:
        """What is asked for after a step.

        Stop and sample are on record from here on, a save when `saved` was called.

        Args:
            step: the steps that are done.
            total: the steps that there are.
            trained: whether the step was done just now; else the training continues from it.
        """
        stop = self._take("stop", step)
        if stop is not None:
            if step < total and self.last is None:
                self._decide(last=step)
            self._answer("stop", stop, step)
        ends = self.last is not None and step >= self.last
        # A step that was asked for before a crash comes again; one that the training continues from has been
        # sampled.
        wished = trained and step in self._known.sampled
        sample = self._take("sample", step)
        if sample is not None:
            # The last step is rendered anyway, and what was sampled since it was asked has not changed.
            sampled = self._sampled_since(sample.step, step)
            shown = not self._recipe.validation.validation_disable
            if sampled is None and step < total and not ends and shown:
                self._decide(sampled=(*self._known.sampled, step))
                wished = True
            self._answer("sample", sample, sampled or step)
        save = self._take("save", step)
        return Wishes(save is not None, wished and not ends, ends)

    def follow(self, step: int, wishes: Wishes) -> None:
        """Know what the first process has read."""
        if wishes.sample:
            self._wished_at = step
            if step not in self._known.sampled:
                self._known = self._known.model_copy(update={"sampled": (*self._known.sampled, step)})
        if wishes.stop and self.last is None:
            self._known = self._known.model_copy(update={"last": step})

    def saved(self, step: int) -> None:
        """Answer the request of a checkpoint."""
        request = self._take("save", step)
        if request is not None:
            self._answer("save", request, step)

    def paused(self) -> None:
        """Count a pause: whoever starts the training again starts another part of it. First process only."""
        self._decide(pauses=self._known.pauses + 1)

    def _take(self, kind: Kind, step: int) -> Request | None:
        """A request that counts after `step`. What came with the last one of its kind is dropped."""
        requests = Requests(self._training)
        request = _read_request(self._training, kind) if requests.waits(kind) else None
        if request is None:
            return None
        if requests.is_same_click(kind, request.asked_s):
            _request_file(self._training, kind).unlink()
            return None
        return request if step >= request.step else None

    def _sampled_since(self, asked: int, step: int) -> int | None:
        """A step from `asked` to `step` that is sampled already; None: none."""
        return next((at for at in range(step, asked - 1, -1) if at > 0 and self.is_sampled(at)), None)

    def _decide(self, **changes: object) -> None:
        self._known = self._known.model_copy(update=changes)
        _decide(self._training, self._known)

    def _answer(self, kind: Kind, request: Request, step: int) -> None:
        _answer(self._training, kind, request, step)
        logger.info("%s was asked for, and is done after step %d", kind, step)


def _read_request(training: Path, kind: Kind) -> Request | None:
    """A request that is there; None, and it is gone, where it cannot be read."""
    file = _request_file(training, kind)
    try:
        return read_model(file, Request)
    except DamagedFile as error:
        # No reason to end hours of work.
        logger.warning("%s; it is dropped, ask again with `ltx2 control %s`", error, kind)
        file.unlink()
        return None


def _answer(training: Path, kind: Kind, request: Request, step: int) -> None:
    write_json(_answer_file(training, kind), Answer(asked_s=request.asked_s, step=step).model_dump())
    _request_file(training, kind).unlink(missing_ok=True)


def _decide(training: Path, known: Decisions) -> None:
    write_json(_decisions_file(training), known.model_dump())


def _folder(training: Path) -> Path:
    return training / FOLDER


def _request_file(training: Path, kind: Kind) -> Path:
    return _folder(training) / kind


def _answer_file(training: Path, kind: Kind) -> Path:
    return _folder(training) / f"{kind}-done.json"


def _decisions_file(training: Path) -> Path:
    return _folder(training) / "decisions.json"
