"""The plan of a rendering: where the transformer's weights are, whether the picture is decoded in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ltxcore.config.lycoris_settings import LycorisSettings
from ltxcore.memory.arrangement import Connectors
from ltxcore.memory.plan import GIB, OverBudget, diffusion_decoder_bytes, vae_activations_bytes
from ltxcore.memory.planner.activations import Activations
from ltxcore.memory.planner.sizes import Tokens, TransformerSizes
from ltxcore.memory.planner.training_planner import (
    CONTEXT_BYTES,
    FRAGMENTATION,
    HOST_FIXED_BYTES,
    PAGEABLE,
    QUANTISED_TIME,
    RESERVE,
    Budget,
    Forced,
    Planner,
    Way,
    placed_bytes,
    resident_blocks,
    ways,
)
from ltxcore.memory.planner.weight_changes import WeightChanges

# Launching kernels and the scheduler, a denoising step.
FIXED_STEP_S = 0.05
# What the overlap of tiles costs of a decode's time.
TILED_TIME = 1.3
ADAPTER_VALUE_BYTES = 4
# Frames of a tile of the diffusion decoder, as diffusers has them.
DIFFUSION_TILE_FRAMES = 80


@dataclass(frozen=True)
class RenderWorkload:
    """One rendering, the largest of a validation."""

    width: int
    height: int
    frames: int
    fps: float
    guided: bool
    """With classifier-free guidance both prompts go through the transformer together."""
    text_tokens: int
    rank: int
    targets: tuple[str, ...]
    tile_pixels: int
    """Edge of the tiles that the picture may be decoded in."""
    tiled: bool = False
    """The recipe asks for tiles."""
    value_bytes: int = 2
    lycoris: LycorisSettings | None = None
    """The LoKr or LoHa, whose changes of the weights are made whole."""
    beside_tokens: int = 0
    """Of what is given beside the video: references and keyframes."""
    beside_sound_tokens: int = 0
    """Of the sound that is given beside the rendered one."""
    upscale: int = 1
    """How many times wider and higher the second stage is; 1: there is none."""
    upsampler_channels: int = 0
    """Of the latent upsampler's feature maps."""
    diffusion_channels: int = 0
    """Of the diffusion decoder's last stage; 0: the VAE's own decoder makes the pictures."""
    second_lora_bytes: int = 0
    """Weights of the LoRA that is on in the second stage, which then has no guidance."""

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        return self.width * self.upscale, self.height * self.upscale

    @property
    def activations(self) -> Activations:
        """The activations of one denoising step of the first stage; guidance doubles the batch."""
        return self._step(self.width, self.height, self.guided)

    @property
    def second_stage(self) -> Activations | None:
        """Those of a step of the second stage, where there is one."""
        if self.upscale == 1:
            return None
        return self._step(*self.final_size, self.guided and not self.second_lora_bytes)

    def _step(self, width: int, height: int, guided: bool) -> Activations:
        tokens = Tokens.of(width, height, self.frames, fps=self.fps, audio=True, text=self.text_tokens)
        tokens = replace(
            tokens, video=tokens.video + self.beside_tokens, audio=tokens.audio + self.beside_sound_tokens
        )
        return Activations(tokens, 2 if guided else 1, self.value_bytes)

    def denoising_bytes(self, sizes: TransformerSizes) -> int:
        """Peak of a pass through the transformer beside its weights, in the larger stage."""
        held = self.activations.rendering_bytes(sizes)
        if (second := self.second_stage) is not None:
            held = max(held, second.rendering_bytes(sizes), self._upsampling_bytes(second.tokens.video))
        if self.lycoris is None:
            return held
        return held + WeightChanges.of(self.lycoris, self.targets, self.value_bytes).rendering_bytes(sizes)

    def _upsampling_bytes(self, cells: int) -> int:
        """Of the latent upsampler: a residual block's input, output and two intermediates, of all cells."""
        return 4 * cells * self.upsampler_channels * self.value_bytes

    def decoding_bytes(self, channels: int, tiled: bool) -> int:
        """Peak of the video decoder beside its weights."""
        width, height = self.final_size
        edge = self.tile_pixels if tiled else max(width, height)
        if self.diffusion_channels:
            return diffusion_decoder_bytes(
                frames=min(self.frames, DIFFUSION_TILE_FRAMES) if tiled else self.frames,
                width=min(edge, width),
                height=min(edge, height),
                channels=self.diffusion_channels,
                value_bytes=self.value_bytes,
            )
        return vae_activations_bytes(
            frames=self.frames,
            width=min(edge, width),
            height=min(edge, height),
            channels=channels,
            value_bytes=self.value_bytes,
        )

    def __str__(self) -> str:
        told = f"{self.width}x{self.height}, {self.frames} frames"
        return told if self.upscale == 1 else "{}, upscaled to {}x{}".format(told, *self.final_size)


@dataclass(frozen=True)
class RenderingPlan:
    """One way of rendering on one machine, with its figures. Tiles alone change a picture."""

    way: Way
    precision: str
    resident: int
    tiled: bool
    weights_bytes: int
    adapter_bytes: int
    work_bytes: int
    device_bytes: int
    host_bytes: int
    step_s: float
    """Seconds of a denoising step."""
    connectors: Connectors = "precomputed"
    """They run for all prompts before the transformer is loaded."""
    checkpointed: int = 0

    def fits(self, budget: Budget) -> bool:
        """Whether both peaks are within the budget."""
        return self.device_bytes <= budget.device_bytes and self.host_bytes <= budget.host_bytes

    @property
    def description(self) -> str:
        """What tells this plan from its neighbours."""
        return f"{self.way}, {self.resident} blocks resident" + (", decoded in tiles" if self.tiled else "")


@dataclass(frozen=True)
class RenderPlanner:
    """Plans for one model on one card.

    Args:
        planner: transformer, connectors and card.
        decoder_channels: of the widest feature map of the video decoder.
        rest_bytes: weights of both VAEs, the vocoder and the latent upsampler, which stay on the device.
    """

    planner: Planner
    decoder_channels: int
    rest_bytes: int

    def choose(
        self, workload: RenderWorkload, budget: Budget, precision: str, forced: Forced
    ) -> RenderingPlan:
        """The fastest plan that fits and changes no picture, or the fastest with tiles.

        Raises:
            OverBudget: none does; names the smallest.
        """
        plans = list(self.variants(workload, precision, forced))
        with_reserve = replace(budget, device_bytes=int(budget.device_bytes * (1 - RESERVE)))
        for allowed in (with_reserve, budget):
            fitting = [plan for plan in plans if plan.fits(allowed)]
            if fitting:
                return min(fitting, key=lambda plan: (plan.tiled, round(plan.step_s, 3), -plan.resident))
        least = min(plans, key=lambda plan: (plan.device_bytes, plan.host_bytes))
        raise OverBudget(
            f"render-validation at {workload} does not fit: the smallest plan, {least.description}, needs "
            f"{least.device_bytes / GIB:.1f} GiB on the device and {least.host_bytes / GIB:.1f} GiB of host "
            f"memory, and {budget.device_bytes / GIB:.1f} and {budget.host_bytes / GIB:.1f} are allowed; "
            "lower validation_resolution or validation_num_video_frames, set base_model_precision: "
            "int8-quanto, or allow more in memory.vram_gib and memory.ram_gib"
        )

    def variants(self, workload: RenderWorkload, precision: str, forced: Forced) -> Iterator[RenderingPlan]:
        """Every plan that there is, whether it fits or not."""
        larger = max(workload.final_size) > workload.tile_pixels
        tilings = (True,) if workload.tiled else (False, True) if larger else (False,)
        for way in ways(forced, precision):
            for resident in resident_blocks(way, self.planner.sizes.blocks, forced):
                for tiled in tilings:
                    yield self.plan(way, workload, precision, resident, tiled, forced)

    def plan(
        self,
        way: Way,
        workload: RenderWorkload,
        precision: str,
        resident: int,
        tiled: bool,
        forced: Forced,
    ) -> RenderingPlan:
        """The figures of one way."""
        sizes, value, groups = self.planner.sizes, workload.value_bytes, forced.groups
        on_device, on_host = placed_bytes(sizes, way, resident, precision, value, groups)
        adapter = ADAPTER_VALUE_BYTES * sizes.adapter_values(workload.targets, workload.rank)
        adapter += workload.second_lora_bytes
        decoding = workload.decoding_bytes(self.decoder_channels, tiled)
        work = max(workload.denoising_bytes(sizes), decoding)
        weights = on_device + self.rest_bytes
        # The connectors and what they give are gone by then; they may still be the larger of the two.
        held = max(weights + adapter + work, self.planner.connectors_bytes)
        return RenderingPlan(
            way=way,
            precision=precision,
            resident=resident,
            tiled=tiled,
            weights_bytes=weights,
            adapter_bytes=adapter,
            work_bytes=work,
            device_bytes=int(held + FRAGMENTATION * work) + CONTEXT_BYTES,
            host_bytes=HOST_FIXED_BYTES + on_host,
            step_s=self._step_s(way, workload, precision, sizes.blocks - resident, forced)
            * (TILED_TIME if tiled else 1.0),
        )

    def _step_s(
        self, way: Way, workload: RenderWorkload, precision: str, streamed: int, forced: Forced
    ) -> float:
        sizes, card = self.planner.sizes, self.planner.card
        activations = workload.activations
        forward = sizes.forward_flop(activations.tokens) * activations.batch / card.rate
        forward *= QUANTISED_TIME.get(precision, max(QUANTISED_TIME.values()))
        copy = streamed * sizes.block_bytes(precision, workload.value_bytes) / (card.bus_gb_s * 1e9)
        if way == "group_offload" and not forced.groups.use_stream:
            return FIXED_STEP_S + forward + 2 * PAGEABLE * copy
        beside = streamed / sizes.blocks if way == "musubi" else 1.0
        return FIXED_STEP_S + forward + max(0.0, copy - forward * beside)
