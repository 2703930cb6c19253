"""When a new LoRA takes the champion's place: the gate, as it is written in a recipe."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from ltxcore.config.base import Strict

NOT_MEASURED: Final = ("forgetting", "likeness", "text", "sound_and_picture", "health")
"""Metrics that a gate may come to have, and that nothing measures yet."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class NotWorseBy(Strict):
    """A condition that allows a small loss of quality."""

    not_worse_by: float = Field(
        ge=0,
        description=(
            "In place of `better`: how much higher than the champion's the loss may be. It holds where all "
            "of the interval lies below."
        ),
    )


Condition = Literal["better"] | NotWorseBy


class PromotionConditions(Strict):
    """What must hold for a promotion, metric by metric. All of it must."""

    loss: Condition | None = Field(None, description="Of the loss on held-out clips, pictures plus sound.")
    video_loss: Condition | None = Field(None, description="The same of the pictures alone.")
    sound_loss: Condition | None = Field(None, description="The same of the sound alone.")

    @model_validator(mode="before")
    @classmethod
    def _is_measured(cls, data: Any) -> Any:
        if isinstance(data, dict) and (absent := [name for name in NOT_MEASURED if name in data]):
            raise ValueError(
                f"{' and '.join(absent)} cannot be measured yet, and a gate that does not look must not "
                f"open; take it out: what is measured is {', '.join(cls.model_fields)}"
            )
        return data

    @model_validator(mode="after")
    def _asks_something(self) -> PromotionConditions:
        if not self.asked:
            raise ValueError("has no condition, and would let anything pass; write e.g. loss: better")
        return self

    @property
    def asked(self) -> dict[str, Condition]:
        """Metric -> condition, of those that are asked for."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: condition for name, condition in found.items() if condition is not None}


def _better() -> PromotionConditions:
    return PromotionConditions(loss="better")


class PromotionSettings(Strict):
    """Compares each new LoRA with the champion. Without this section nothing is judged."""

    model: str = Field(
        description="The champion's name: its two files lie in `champions/NAME` of the workspace."
    )
    when: PromotionConditions = Field(default_factory=_better)
    undecided: Literal["keep", "take"] = Field(
        "keep",
        description="What becomes of a LoRA for and against which the interval says nothing: the champion is "
        "kept, or the new LoRA takes its place.",
    )
    decide: Literal["auto", "never"] = Field(
        "auto",
        description="`auto` promotes what passes; `never` only measures, and `ltx2 promote` decides.",
    )
    min_clips: int = Field(
        5,
        ge=3,
        description="With fewer clips that decide, nothing is decided: `too few clips` is the verdict.",
    )

    @field_validator("model")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(
                f"{value!r} cannot name a folder; write letters, digits, `.`, `_` and `-`, such as my-lora"
            )
        return value

    @field_validator("decide", mode="before")
    @classmethod
    def _asks_nobody(cls, value: Any) -> Any:
        if value == "ask":
            raise ValueError(
                "ask is not there yet: nobody could answer; write never, look at the gate page, and promote "
                "with `ltx2 promote`"
            )
        return value
