"""Which samples have something to learn, given what the recipe's `conditioning` gives of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.store.snapshot import Sample

logger = logging.getLogger(__name__)

NAMED = 3


class NothingLearnt(ValueError):
    """No sample has anything that the recipe leaves to learn."""


def learnable(samples: Sequence[Sample], given: ConditioningSettings) -> list[Sample]:
    """The samples of which something is generated: with frozen pictures those that have sound.

    Raises:
        NothingLearnt: there are samples, and none of them is such, or none has the reference or mask that a
            condition gives.
    """
    wanted = {
        "reference": given.video.of_type("reference"),
        "reference_sound": given.sound_reference,
        "mask": given.video.of_type("mask") or given.audio.of_type("mask"),
    }
    for kind, asked in wanted.items():
        if samples and asked and not any(getattr(sample, kind) for sample in samples):
            named = kind.replace("_", " ")
            raise NothingLearnt(
                f"conditioning has a {named} condition, and none of the {len(samples)} samples has a "
                f"{named}; name its dataset in the `conditioning_data` of the clips and run probe-media"
            )
    kept = [sample for sample in samples if _has_something_to_learn(sample, given)]
    if samples and not kept:
        raise NothingLearnt(
            f"conditioning.{given.frozen}.mode is frozen, and none of the {len(samples)} samples has "
            f"{'sound' if given.frozen == 'video' else 'pictures'} to learn"
        )
    return kept


def tell_left_out(samples: Sequence[Sample], kept: Sequence[Sample], given: ConditioningSettings) -> None:
    """Say which samples are in no batch."""
    ids = {sample.id for sample in kept}
    out = [sample.id for sample in samples if sample.id not in ids]
    if out:
        more = f" and {len(out) - NAMED} more" if len(out) > NAMED else ""
        logger.warning(
            "conditioning.%s.mode is frozen, and these samples have nothing else: %s%s are left out",
            given.frozen,
            ", ".join(out[:NAMED]),
            more,
        )


def _has_something_to_learn(sample: Sample, given: ConditioningSettings) -> bool:
    if given.frozen == "video":
        return sample.audio is not None
    return given.frozen is None or sample.kind != "audio"
