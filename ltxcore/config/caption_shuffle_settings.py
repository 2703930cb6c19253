"""`caption_shuffle`: the same tags in other orders, in SimpleTuner's own keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from ltxcore.config.base import Strict


class CaptionShuffle(Strict):
    """Captions that are lists of tags, in several orders; each is embedded once, and a visit draws one."""

    enable: bool = Field(False, description="Whether there are other orders.")
    count: PositiveInt = Field(1, le=64, description="How many other orders of each caption.")
    seed: int = Field(
        42,
        ge=0,
        lt=2**63,
        description="Of the orders. Apart from training.seed, so that another training embeds nothing again.",
    )
    split_on: Literal["comma", "space", "period"] = Field("comma", description="What is between two tags.")
    position_start: int = Field(0, ge=0, description="How many of the first tags keep their place.")
    include_original: bool = Field(True, description="Whether the caption as it stands is one of them.")
