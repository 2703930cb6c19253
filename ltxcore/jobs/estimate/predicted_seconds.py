"""How long a stage should take where it has never run: from its operations and from what a machine reaches.

Figures of this kind are right within a factor of two; the first run of a stage replaces them by its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import psutil

from ltxcore.config.batch_size import AUTO, clips_of
from ltxcore.config.crepa_settings import PATCH
from ltxcore.jobs.estimate.figures import Planned, StageEstimate
from ltxcore.jobs.estimate.output_sizes import USUAL_TOKENS_PER_CHARACTER
from ltxcore.memory.device import device_budget_bytes, device_name, likely_device
from ltxcore.memory.plan import GIB, MemoryPlan, machine_bytes
from ltxcore.memory.planned_machine import planned_machine
from ltxcore.memory.planner.activations import Activations
from ltxcore.memory.planner.cards import Card, card_like
from ltxcore.memory.planner.sizes import Shapes, TransformerSizes
from ltxcore.memory.planner.training_planner import Workload
from ltxcore.models.shapes import full_shapes
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import AUDIO, FRAMES, JUDGE, LATENTS, PROBE, RENDER, TEXT, TRAIN
from ltxcore.pipeline.data.prompts import all_texts
from ltxcore.pipeline.data.rendering_size import settings_of_clips
from ltxcore.pipeline.data.tokens import video_tokens
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.pipeline.plan.transformer_plan import sizes_of, workload_of, workload_on
from ltxcore.stages.embed_text.memory import LAYERED_TOKENS
from ltxcore.stages.render_validation.memory import rendering_workload
from ltxcore.validation.rendering_settings import SECOND_STAGE_SIGMAS

FILE_S: Final = 0.13
"""Processor time of probing a clip of 2 s (bench/results/2026-11-21-probe_1000.md)."""
SOUND_S: Final = 0.15
"""The same of cutting its sound: two passes of ffmpeg."""
START_S: Final = 3.0
"""A process that loads models: the interpreter and its libraries."""
READ_BYTES_S: Final = 1.5e9
"""Weights from disk to where they are used, one after the other."""
FRAMES_S: Final = 200.0
"""Frames that ffmpeg decodes in a second on four cores."""
ENCODER_FLOP: Final = 2.94e6
"""Of LTX-2.0's video encoder, a pixel and frame: 2.65 TFLOP a frame of 1280x704, counted on meta tensors."""
CONVOLUTIONS: Final = 0.6
"""What convolutions reach of the rate that a transformer's products reach."""
CORE_FLOP_S: Final = 15e9
"""What a core reaches in float32 products of the sizes of small models."""
CPU_STEP_S: Final = 0.05
"""Of a step on a CPU: the data and the optimizer."""
CPU_PASSES: Final = 4
"""A training step in passes forward: one, the backward pass of two, and one more to recompute."""
JUDGED: Final = 3
"""LoRAs that each held-out clip is measured with: none, the champion and the new one."""


@dataclass(frozen=True)
class Predictor:
    """Predicted seconds of the stages of one context, on the machine that is planned for."""

    ctx: Planned

    @property
    def _card(self) -> Card | None:
        machine = planned_machine()
        if machine is None:
            if likely_device() == "cpu":
                return None
            # A device whose driver has no program to ask, as AMD's.
            free = device_budget_bytes("cuda", None) or 0
            return card_like(device_name(), free / GIB, machine_bytes() / GIB)
        return card_like(machine.device_name, machine.device_bytes / GIB, machine.host_bytes / GIB)

    @property
    def _rate(self) -> float:
        """Floating-point operations a second."""
        card = self._card
        return CORE_FLOP_S * _cores() if card is None else card.rate

    def seconds(self, found: StageEstimate) -> float | None:
        """The seconds of a stage with its work; None where its plan or its model is not known."""
        to_do, stage, plan = found.to_do, found.stage, found.memory
        if not to_do or plan is None:
            return file_seconds(found)
        work = {
            LATENTS: self._encoding,
            TEXT: self._embedding,
            FRAMES: self._teaching,
            TRAIN: self._training,
            RENDER: self._rendering,
            JUDGE: self._judging,
        }[stage](to_do + found.pauses, plan)
        # Each pause of a training loads the model again.
        loads = 1 + (found.pauses > 0)
        return loads * (START_S + plan.weights_bytes / READ_BYTES_S) + work

    def _encoding(self, to_do: int, plan: MemoryPlan) -> float:
        """Pictures through the video VAE, as fast as it computes or as ffmpeg decodes; sound is small."""
        samples = [sample for sample in self.ctx.snapshot.samples if sample.kind != "audio"]
        if not samples:
            return 0.0
        pixels = sum(math.prod(s.geometry.target) * s.frames.count for s in samples) / len(samples)
        frames = sum(s.frames.count for s in samples) / len(samples)
        share = _encoder_values(self.ctx.source.shapes("vae")) / _encoder_values(full_shapes("2.0")["vae"])
        computed = pixels * ENCODER_FLOP * share / (self._rate * CONVOLUTIONS)
        tracks = 2 if any(sample.audio for sample in samples) else 1
        return to_do / tracks * max(computed, frames / FRAMES_S)

    def _embedding(self, to_do: int, plan: MemoryPlan) -> float:
        """Two operations a weight and token; a Gemma that is not resident is read once for every pass."""
        texts = all_texts(self.ctx.recipe, self.ctx.snapshot)
        characters = sum(map(len, texts)) / max(1, len(texts))
        tokens = min(self.ctx.source.text_max_tokens, 1 + characters * USUAL_TOKENS_PER_CHARACTER) * to_do
        values = sum(math.prod(shape) for shape in self.ctx.source.shapes("text_encoder").values())
        computed = 2 * values * tokens / self._rate
        if plan.strategy == "resident":
            return computed
        read = self.ctx.source.resident_bytes("text_encoder", 2) / READ_BYTES_S
        return computed + math.ceil(tokens / LAYERED_TOKENS) * read

    def _teaching(self, to_do: int, plan: MemoryPlan) -> float:
        settings = self.ctx.recipe.crepa
        tokens = (settings.crepa_encoder_image_size // PATCH) ** 2 + 1
        samples = [sample for sample in self.ctx.snapshot.samples if sample.kind != "audio"]
        frames = sum(sample.frames.count for sample in samples) / max(1, len(samples))
        # Two operations a weight and token; the plan's weights are bf16.
        return to_do * frames * tokens * plan.weights_bytes / self._rate

    def _training(self, to_do: int, plan: MemoryPlan) -> float:
        """The planner's step on the largest bucket, less where other buckets are smaller."""
        ctx = settle_where_known(self.ctx)
        largest, sizes = workload_of(ctx), self._sizes(ctx)
        step_s = plan.step_s
        if step_s is None:
            forward = sizes.forward_flop(largest.tokens) * largest.batch
            step_s = CPU_STEP_S + CPU_PASSES * forward / self._rate
        return to_do * ctx.recipe.training.gradient_accumulation_steps * step_s * _usual(ctx, sizes, largest)

    def _rendering(self, to_do: int, plan: MemoryPlan) -> float:
        """Denoising steps of the largest size, and as long for decoding as encoding would take."""
        ctx = self.ctx
        settings = settings_of_clips(ctx)
        work = rendering_workload(ctx)
        step_s = plan.step_s
        if step_s is None:
            tokens = work.activations.tokens
            forward = self._sizes(ctx).forward_flop(tokens) * (2 if work.guided else 1)
            step_s = CPU_STEP_S + forward / self._rate
        steps = sum(setting.steps for setting in settings) / len(settings)
        if work.second_stage is not None:
            first, second = (self._flop(step) for step in (work.activations, work.second_stage))
            steps += len(SECOND_STAGE_SIGMAS) * second / first
        pixels = sum(s.pixels for s in settings) / len(settings)
        share = _encoder_values(ctx.source.shapes("vae")) / _encoder_values(full_shapes("2.0")["vae"])
        decoding = pixels * ENCODER_FLOP * share / (self._rate * CONVOLUTIONS)
        return to_do * (steps * step_s + decoding)

    def _judging(self, to_do: int, plan: MemoryPlan) -> float:
        """A pass for each noise level with base, champion and challenger, of the largest clip."""
        ctx = settle_where_known(self.ctx)
        passes = JUDGED * len(ctx.recipe.evaluation.eval_sigmas) * to_do
        if plan.step_s is not None:
            return passes * plan.step_s / CPU_PASSES
        return passes * (CPU_STEP_S + self._sizes(ctx).forward_flop(workload_of(ctx).tokens) / self._rate)

    def _flop(self, step: Activations) -> float:
        return self._sizes(self.ctx).forward_flop(step.tokens) * step.batch

    def _sizes(self, ctx: Context) -> TransformerSizes:
        return sizes_of(ctx.source.shapes("transformer"), ctx.source.config("transformer"))


def file_seconds(found: StageEstimate) -> float | None:
    """The seconds of a stage that loads no model, or has nothing to do; None of any other."""
    if found.to_do == 0:
        return 0.0
    each = {PROBE.name: FILE_S, AUDIO.name: SOUND_S}.get(found.stage.name)
    return None if each is None or found.to_do is None else found.to_do * each / _cores()


def settle_where_known(ctx: Context) -> Context:
    """The context with its automatic settings decided; itself where the recipe leaves none open."""
    auto = AUTO in (ctx.recipe.model.base_model_precision, ctx.recipe.training.train_batch_size)
    if not auto:
        return ctx
    return settle(ctx)


def _usual(ctx: Context, sizes: TransformerSizes, largest: Workload) -> float:
    """A usual step's operations, of those of the largest bucket."""
    size = ctx.recipe.training.train_batch_size
    most = sizes.forward_flop(largest.tokens) * largest.batch
    flop = visits = 0.0
    for bucket, samples in ctx.snapshot.buckets().items():
        weight = sum(sample.visits * sample.probability for sample in samples)
        batch = 1 if size == AUTO else clips_of(size, bucket)
        tokens = workload_on(ctx, max(samples, key=video_tokens)).tokens
        flop += weight / batch * sizes.forward_flop(tokens) * batch
        visits += weight / batch
    return min(1.0, flop / visits / most) if visits and most else 1.0


def _encoder_values(shapes: Shapes) -> int:
    """Weights of a VAE's encoder."""
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("encoder."))


def _cores() -> int:
    return psutil.cpu_count() or 1
