"""SimpleTuner's keys of the noise schedule as the recipe's one choice, `training.flow_schedule`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ltxcore.config.simpletuner.translation import Converted, Converter, Rule, Translation, Unfit, take

SHIFT, AUTO_SHIFT, SCHEDULE = "flow_schedule_shift", "flow_schedule_auto_shift", "flow_schedule"


def shift(value: Any, base: Path) -> Converted:
    """The shift as it is; 0, which shifts nothing there, becomes 1.

    Raises:
        Unfit: it is no number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Unfit(f"found {value!r}; write a number above 0, e.g. 3.0") from None
    return Converted(1.0, "0 shifts nothing, which is 1 here") if number == 0 else Converted(number)


def _named(schedule: str) -> Converter:
    return lambda value, base: Converted(schedule)


FLOW: Final[Mapping[str, Rule]] = {
    SHIFT: take(f"training.{SHIFT}", convert=shift),
    AUTO_SHIFT: take(f"training.{AUTO_SHIFT}", off=(False,)),
    "flow_use_uniform_schedule": take("training.flow_schedule", convert=_named("uniform"), off=(False,)),
    "flow_use_beta_schedule": take("training.flow_schedule", convert=_named("beta"), off=(False,)),
    **{
        name: Rule("taken", to=(f"training.{name}",), needs="flow_use_beta_schedule")
        for name in ("flow_beta_schedule_alpha", "flow_beta_schedule_beta")
    },
}


def settle_flow(translation: Translation, config: Mapping[str, Any]) -> None:
    """A shift without a schedule belongs to logit_normal; an automatic shift overrides a shift of 0."""
    training = translation.data.setdefault("training", {})
    if training.get(AUTO_SHIFT) and config.get(SHIFT) == 0:
        del training[SHIFT]
    if SCHEDULE not in training and (SHIFT in training or training.get(AUTO_SHIFT)):
        training[SCHEDULE] = "logit_normal"
        translation.tell(SCHEDULE, "added", "logit_normal, which the shift belongs to")
