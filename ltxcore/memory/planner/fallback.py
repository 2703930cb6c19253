"""The next plan after one that ran out of memory: the fastest that needs clearly less of that memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from ltxcore.memory.out_of_memory import is_on_host
from ltxcore.memory.planner.training_planner import CONTEXT_BYTES, HOST_FIXED_BYTES, Budget, Way

Kind = Literal["device", "host"]
# What the next plan may take of what the failed one was predicted to. Predictions are good to a tenth.
SHARE = 0.85


class Placed(Protocol):
    """A plan of a training or of a rendering."""

    @property
    def way(self) -> Way:
        """How the weights are placed."""

    @property
    def device_bytes(self) -> int:
        """Predicted peak on the device."""

    @property
    def host_bytes(self) -> int:
        """Predicted peak in host memory."""

    @property
    def step_s(self) -> float:
        """Predicted seconds of a step."""

    def fits(self, budget: Budget) -> bool:
        """Whether both peaks are within the budget."""


P = TypeVar("P", bound=Placed)


@dataclass(frozen=True)
class Exhausted:
    """A plan that ran out of memory: of which, and what it was predicted to take."""

    kind: Kind
    device_bytes: int
    host_bytes: int

    @property
    def chosen_bytes(self) -> int:
        """Bytes of the exhausted memory that the plan chose to use, beyond what every process needs."""
        return _chosen_bytes(self, self.kind)


def kind_of(error: BaseException, on_device: bool) -> Kind:
    """Which memory an error speaks of."""
    return "host" if not on_device or is_on_host(error) else "device"


def next_plan(plans: Iterable[P], budget: Budget, failed: Sequence[Exhausted], last: bool) -> P | None:
    """The plan to try after those that failed, None where none takes less than they did.

    Args:
        plans: every plan that there is.
        failed: what ran out of memory so far.
        last: there is no other try after this one, so that the smallest plan is taken.
    """
    limits: dict[Kind, int] = {}
    for exhausted in failed:
        limits[exhausted.kind] = min(
            limits.get(exhausted.kind, exhausted.chosen_bytes), exhausted.chosen_bytes
        )
    smaller = [
        plan
        for plan in plans
        if plan.fits(budget) and all(_chosen_bytes(plan, kind) < most for kind, most in limits.items())
    ]
    # Group offload takes a slot less than streaming, and is far slower where a copy takes time.
    left = [plan for plan in smaller if plan.way != "group_offload"] or smaller
    clearly = [
        plan
        for plan in left
        if all(_chosen_bytes(plan, kind) <= SHARE * most for kind, most in limits.items())
    ]
    if clearly and not last:
        return min(clearly, key=lambda plan: (round(plan.step_s, 3), plan.device_bytes))
    kind = failed[-1].kind
    return min(left, key=lambda plan: (_chosen_bytes(plan, kind), plan.step_s), default=None)


def _chosen_bytes(plan: Placed | Exhausted, kind: Kind) -> int:
    return plan.device_bytes - CONTEXT_BYTES if kind == "device" else plan.host_bytes - HOST_FIXED_BYTES
