"""render-validation: every prompt from the base and the shown LoRAs, and a gallery of both."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ltxcore.pipeline.base.work import Assignment, Place, Result, Work
from ltxcore.stages.render_validation.session import Session

logger = logging.getLogger(__name__)

THE_GALLERY = ("the gallery",)


class RenderValidation(Work[str]):
    """All renderings of one request, which are one unit."""

    counted, doing = "denoising steps", "loading"
    loading, unit = "", "render"
    # This process may hold what leaked. What was rendered of the base is kept.
    retries = 0

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self.session = Session(self.ctx, asked.directory, "cpu", run=asked.run)

    def total(self) -> int:
        return self.session.denoising_steps

    def load(self, place: Place) -> None:
        super().load(place)
        self.session = Session(self.ctx, self.asked.directory, place.device, place.plan, self.asked.run)

    def units(self) -> Sequence[str]:
        return THE_GALLERY

    def do(self, unit: str) -> None:
        rendered = self.session.render(lambda message: self.asked.progress.advance(1, message))
        self.session.write(rendered)

    def outcome(self) -> Result:
        if not self.session.prompts:
            logger.info("validation_disable is set: nothing is rendered")
        return Result(self.session.finish())

    def after_stamp(self) -> None:
        self.session.forget_samples()


WORK = RenderValidation
