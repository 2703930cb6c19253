"""Which batches have the base model's prediction as their target, and with which captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ltxcore.config.preservation_settings import PreservationSettings
from ltxcore.store.fingerprint import SEED_BITS, derive_seed
from ltxcore.training.batch_entry import Entry
from ltxcore.training.batch_schedule import STAGE, ScheduledBatch


def held_to_base(
    visits: ScheduledBatch,
    entries: Mapping[str, Entry],
    settings: PreservationSettings,
    seed: int,
    number: int,
) -> ScheduledBatch | None:
    """The visits of batch `number` if it preserves the base, with its captions; None: it learns its clips.

    Drawn for a whole batch, which has one target. A sample's captions of the class are counted on from its
    own ones; where its caption was dropped, it is that of the first. Regularisation data stays what it is.
    """
    share = derive_seed(seed, STAGE, number, "preservation") / 2**SEED_BITS
    blank = settings.blank_prompt_probability
    if share >= blank + settings.class_prompt_probability or entries[visits[0].sample_id].regularisation:
        return None
    if share < blank:
        return tuple(replace(visit, caption=None) for visit in visits)
    return tuple(
        replace(visit, caption=entries[visit.sample_id].captions + (visit.caption or 0)) for visit in visits
    )
