"""The plan of a training: every way of placing the weights, what each takes, and the fastest that fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from ltxcore.config.lycoris_settings import LycorisSettings
from ltxcore.config.tread_settings import TreadSettings
from ltxcore.memory.arrangement import Connectors, GroupSettings
from ltxcore.memory.plan import ADAPTER_BYTES_PER_PARAMETER, GIB, PROCESS_BYTES, OverBudget
from ltxcore.memory.planner.activations import Activations
from ltxcore.memory.planner.alignment import alignment_bytes, projector_values
from ltxcore.memory.planner.cards import Card
from ltxcore.memory.planner.sizes import Tokens, TransformerSizes
from ltxcore.memory.planner.weight_changes import WeightChanges

Way = Literal["resident", "block_streaming", "group_offload", "ramtorch", "musubi"]
# CUDA's context, the libraries' work space and what the allocator loses between pieces.
CONTEXT_BYTES = int(0.7 * GIB)
FRAGMENTATION = 0.03
# CUDA's and its libraries' own use of host memory.
HOST_CONTEXT_BYTES = int(2.0 * GIB)
# The largest tensor on its way from disk.
LOADING_BYTES = int(0.2 * GIB)
HOST_FIXED_BYTES = PROCESS_BYTES + HOST_CONTEXT_BYTES + LOADING_BYTES
"""Host memory of every process that computes on a device."""
SLOTS = 2
# Dequantising before each product, against bf16.
QUANTISED_TIME = {"no_change": 1.0, "int8-quanto": 1.2, "fp8-quanto": 1.2, "int4-quanto": 1.35}
# Launching kernels, the optimizer and the data, a step.
FIXED_S = 0.15
# Left free where there is a choice: predictions are good to a few per cent.
RESERVE = 0.06
LARGEST_BATCH = 64
# For the connectors' outputs, where nobody has looked at the disk.
DISK_BYTES = 100 * GIB
# A float32 value. While it is measured the weights wait beside it in the place of their gradients.
AVERAGE_BYTES = 4
# A trained value in the type that a step computes in, kept from a block's forward pass to its backward pass.
CAST_BYTES, FLOAT32_BYTES = 2, 4
# Copies from ordinary pages, there and back again, reach a third of the bus.
PAGEABLE = 3.0


@dataclass(frozen=True)
class Workload:
    """One step of a training, on its largest bucket."""

    width: int
    height: int
    frames: int
    batch: int = 1
    fps: float = 25.0
    audio: bool = True
    text_tokens: int = 1024
    rank: int = 16
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    dropout: bool = False
    per_token_times: bool = False
    checkpointing: bool = True
    value_bytes: int = 2
    captions: int | None = None
    """Different captions of the data; None where the data are not known."""
    visits: int = 0
    """Samples that the whole training looks at."""
    beside_tokens: int = 0
    """Of what is given beside the video: references (IC-LoRA) and keyframes."""
    beside_sound_tokens: int = 0
    """Of the sound that is given beside the video's own."""
    teacher_width: int = 0
    """Of CREPA's teacher; 0 without it."""
    lycoris: LycorisSettings | None = None
    """The LoKr or LoHa, whose changes of the weights are made whole."""
    averaged: bool = False
    """An average of the adapter is kept."""
    tread: TreadSettings = field(default_factory=TreadSettings)
    given_frames: int | None = 0
    """Latent frames that are given at most, in their places; None: any token may be given."""

    @property
    def tokens(self) -> Tokens:
        """Tokens of one sample: video with what is given beside it, sound and text."""
        own = Tokens.of(
            self.width, self.height, self.frames, fps=self.fps, audio=self.audio, text=self.text_tokens
        )
        return replace(own, video=own.video + self.beside_tokens, audio=own.audio + self.beside_sound_tokens)

    @property
    def activations(self) -> Activations:
        """What a training step keeps of one batch."""
        return Activations(
            self.tokens,
            self.batch,
            self.value_bytes,
            self.dropout,
            self.per_token_times,
            self.tread,
            self._given_tokens,
        )

    @property
    def _given_tokens(self) -> int:
        own = self.tokens.video - self.beside_tokens
        if self.given_frames is None:
            return own + self.beside_tokens
        frames = (self.frames - 1) // 8 + 1
        return own // frames * min(self.given_frames, frames) + self.beside_tokens

    @property
    def adapter_value_bytes(self) -> int:
        """A trained parameter with what is kept of it."""
        cast = CAST_BYTES if self.value_bytes < FLOAT32_BYTES else 0
        return ADAPTER_BYTES_PER_PARAMETER + cast + (AVERAGE_BYTES if self.averaged else 0)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames, batch {self.batch}"


@dataclass(frozen=True)
class Budget:
    """What a training may use, in bytes."""

    device_bytes: int
    host_bytes: int
    disk_bytes: int = DISK_BYTES
    """What the connectors' outputs may take of the workspace's disk."""

    @classmethod
    def of(cls, card: Card) -> Budget:
        """All of a card's memory, on the device and of the host."""
        return cls(int(card.vram_gib * GIB), int(card.ram_gib * GIB))


@dataclass(frozen=True)
class Forced:
    """What the recipe leaves the planner no choice about. None: free."""

    way: Way | None = None
    resident_blocks: int | None = None
    swapped_blocks: int = 0
    connectors: Connectors | None = None
    groups: GroupSettings = field(default_factory=GroupSettings)


@dataclass(frozen=True)
class TrainingPlan:
    """One way of running a training on one machine, with its figures."""

    way: Way
    precision: str
    resident: int
    """Blocks whose weights stay on the device."""
    checkpointed: int
    """Blocks computed anew in backward, the first ones."""
    connectors: Connectors
    weights_bytes: int
    adapter_bytes: int
    activations_bytes: int
    device_bytes: int
    host_bytes: int
    step_s: float

    def fits(self, budget: Budget) -> bool:
        """Whether both peaks are within the budget."""
        return self.device_bytes <= budget.device_bytes and self.host_bytes <= budget.host_bytes

    @property
    def description(self) -> str:
        """What tells this plan from its neighbours."""
        return (
            f"{self.way}, {self.resident} blocks resident, {self.checkpointed} recomputed, "
            f"connectors {self.connectors}"
        )

    def __str__(self) -> str:
        return (
            f"{self.way} ({self.precision}): {self.device_bytes / GIB:.1f} GiB on the device, "
            f"{self.host_bytes / GIB:.1f} GiB of host memory, about {self.step_s:.1f} s a step"
        )


class NothingFits(OverBudget):
    """No way of placing the weights keeps within the budget."""

    def __init__(self, nearest: TrainingPlan, workload: Workload, budget: Budget, advice: str = "") -> None:
        super().__init__(
            f"train-lora at {workload} does not fit: the nearest plan is {nearest}, and the budget is "
            f"{budget.device_bytes / GIB:.1f} GiB on the device and {budget.host_bytes / GIB:.1f} GiB of "
            f"host memory{advice}"
        )
        self.nearest, self.workload, self.budget = nearest, workload, budget


@dataclass(frozen=True)
class Planner:
    """Plans for one transformer on one card.

    Args:
        sizes: the transformer.
        connectors_bytes: the text connectors' transformers, which run in every step.
        card: bus and arithmetic.
        connected_width: widths of both of the connectors' outputs together.
    """

    sizes: TransformerSizes
    connectors_bytes: int
    card: Card
    connected_width: int

    def plans(
        self, workload: Workload, budget: Budget, precision: str = "no_change", forced: Forced | None = None
    ) -> list[TrainingPlan]:
        """The best of each way, whether it fits or not."""
        forced = forced or Forced()
        found = []
        for way in ways(forced, precision):
            variants = list(self._variants(way, workload, budget, precision, forced))
            found.append(self._best(variants, budget))
        return found

    def choose(
        self, workload: Workload, budget: Budget, precision: str = "no_change", forced: Forced | None = None
    ) -> TrainingPlan:
        """The fastest plan that fits.

        Raises:
            NothingFits: none does; names the nearest. `remedies` tells what would.
        """
        plans = self.plans(workload, budget, precision, forced)
        fitting = [plan for plan in plans if plan.fits(budget)]
        if fitting:
            return min(fitting, key=lambda plan: plan.step_s)
        raise NothingFits(min(plans, key=lambda plan: excess(plan, budget)), workload, budget)

    def variants(
        self, workload: Workload, budget: Budget, precision: str, forced: Forced
    ) -> Iterator[TrainingPlan]:
        """Every plan that there is, of every way, whether it fits or not."""
        for way in ways(forced, precision):
            yield from self._variants(way, workload, budget, precision, forced)

    def largest_batch(self, workload: Workload, budget: Budget, precision: str, forced: Forced) -> int:
        """The largest batch of this bucket for which some way fits; 0 where not even one sample does."""

        def fits(batch: int) -> bool:
            plans = self.plans(replace(workload, batch=batch), budget, precision, forced)
            return any(plan.fits(budget) for plan in plans)

        # What fits with a batch fits with every smaller one.
        return bisect_left(range(1, LARGEST_BATCH + 1), True, key=lambda batch: not fits(batch))

    def _best(self, variants: list[TrainingPlan], budget: Budget) -> TrainingPlan:
        with_reserve = replace(budget, device_bytes=int(budget.device_bytes * (1 - RESERVE)))
        for allowed in (with_reserve, budget):
            fitting = [plan for plan in variants if plan.fits(allowed)]
            if fitting:
                return min(fitting, key=lambda plan: (round(plan.step_s, 3), plan.device_bytes))
        return min(variants, key=lambda plan: excess(plan, budget))

    def _variants(
        self, way: Way, workload: Workload, budget: Budget, precision: str, forced: Forced
    ) -> Iterator[TrainingPlan]:
        blocks = self.sizes.blocks
        if not workload.checkpointing:
            depths: list[int] = [0]
        else:
            depths = list(range(blocks + 1)) if way == "resident" else [blocks]
        for resident in resident_blocks(way, blocks, forced):
            for checkpointed in depths:
                for connectors in self._connectors(workload, budget, forced):
                    yield self.plan(
                        way, workload, precision, resident, checkpointed, connectors, forced.groups
                    )

    def _connectors(self, workload: Workload, budget: Budget, forced: Forced) -> Iterator[Connectors]:
        """Computing them beforehand pays where captions are fewer than looks at samples."""
        if forced.connectors is not None:
            yield forced.connectors
            return
        yield from ("resident", "streamed")
        if workload.captions is not None and workload.captions < workload.visits:
            caption_bytes = workload.text_tokens * self.connected_width * workload.value_bytes
            if workload.captions * caption_bytes <= budget.disk_bytes:
                yield "precomputed"

    def plan(
        self,
        way: Way,
        workload: Workload,
        precision: str,
        resident: int,
        checkpointed: int,
        connectors: Connectors = "resident",
        groups: GroupSettings | None = None,
    ) -> TrainingPlan:
        """The figures of one way."""
        groups = groups or GroupSettings()
        sizes, value = self.sizes, workload.value_bytes
        streamed = sizes.blocks - resident
        on_device, on_host = placed_bytes(sizes, way, resident, precision, value, groups)
        connectors_here = {
            "resident": self.connectors_bytes,
            "streamed": self.connectors_bytes // 2,
            "precomputed": 0,
        }[connectors]
        adapter = workload.adapter_value_bytes * sizes.adapter_values(workload.targets, workload.rank)
        activations = workload.activations.step_bytes(sizes, checkpointed)
        if workload.lycoris is not None:
            changes = WeightChanges.of(workload.lycoris, workload.targets, workload.value_bytes)
            activations += changes.step_bytes(sizes, checkpointed)
        if workload.teacher_width:
            widths = {"width": sizes.width, "teacher_width": workload.teacher_width}
            adapter += workload.adapter_value_bytes * projector_values(**widths)
            activations += alignment_bytes(tokens=workload.tokens.video, batch=workload.batch, **widths)
        held = on_device + connectors_here + adapter + activations
        return TrainingPlan(
            way=way,
            precision=precision,
            resident=resident,
            checkpointed=checkpointed,
            connectors=connectors,
            weights_bytes=on_device + connectors_here,
            adapter_bytes=adapter,
            activations_bytes=activations,
            device_bytes=int(held + FRAGMENTATION * activations) + CONTEXT_BYTES,
            host_bytes=HOST_FIXED_BYTES
            + on_host
            + (self.connectors_bytes if connectors == "streamed" else 0),
            step_s=self._step_s(way, workload, precision, streamed, checkpointed, groups)
            + self._connectors_s(workload, connectors),
        )

    def _connectors_s(self, workload: Workload, connectors: Connectors) -> float:
        """Two operations a weight and token; what is computed beforehand is spread over all looks at it."""
        values = self.connectors_bytes / workload.value_bytes
        forward = 2 * values * workload.text_tokens * workload.batch / self.card.rate
        if connectors == "precomputed":
            return forward * (workload.captions or 0) / max(1, workload.visits)
        copied = self.connectors_bytes if connectors == "streamed" else 0
        return forward + copied / (self.card.bus_gb_s * 1e9)

    def _step_s(
        self,
        way: Way,
        workload: Workload,
        precision: str,
        streamed: int,
        checkpointed: int,
        groups: GroupSettings,
    ) -> float:
        sizes = self.sizes
        flop = sizes.forward_flop(workload.tokens) * workload.batch
        forward = flop / self.card.rate * QUANTISED_TIME.get(precision, 1.35)
        backward = forward * (1 + checkpointed / sizes.blocks)
        copy = streamed * sizes.block_bytes(precision, workload.value_bytes) / (self.card.bus_gb_s * 1e9)
        if way == "group_offload" and not groups.use_stream:
            return FIXED_S + forward + backward + 2 * 2 * PAGEABLE * copy
        # Blocks streamed one after another hide their copies behind their own computation alone.
        beside = streamed / sizes.blocks if way == "musubi" else 1.0
        stalls = max(0.0, copy - forward * beside) + max(0.0, copy - backward * beside)
        return FIXED_S + forward + backward + stalls


def ways(forced: Forced, precision: str) -> tuple[Way, ...]:
    """The ways that the recipe leaves open."""
    if forced.way is not None:
        return (forced.way,)
    # diffusers' groups cannot move quantised weights.
    return ("resident", "block_streaming", *(("group_offload",) if precision == "no_change" else ()))


def resident_blocks(way: Way, blocks: int, forced: Forced) -> list[int]:
    """How many blocks may stay on the device."""
    if way == "resident":
        return [blocks]
    if way == "musubi":
        return [blocks - forced.swapped_blocks]
    if way == "block_streaming":
        return list(range(blocks)) if forced.resident_blocks is None else [forced.resident_blocks]
    return [0]


def placed_bytes(
    sizes: TransformerSizes, way: Way, resident: int, precision: str, value_bytes: int, groups: GroupSettings
) -> tuple[int, int]:
    """What the transformer's weights take on the device, and what of them waits in host memory."""
    block, streamed = sizes.block_bytes(precision, value_bytes), sizes.blocks - resident
    slots = groups.blocks_per_group * (2 if groups.use_stream else 1) if way == "group_offload" else SLOTS
    on_device = sizes.outside_bytes(value_bytes) + block * (resident + min(slots, streamed))
    on_disk = groups.disk is not None and way == "group_offload"
    return on_device, 0 if on_disk else block * streamed


def excess(plan: TrainingPlan, budget: Budget) -> float:
    """How far a plan is beyond the budget, as shares of it."""
    device = max(0, plan.device_bytes - budget.device_bytes) / budget.device_bytes
    return device + max(0, plan.host_bytes - budget.host_bytes) / budget.host_bytes
