"""How many bytes stages write, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from ltxcore.config.conditioning_settings import Modality
from ltxcore.config.geometry import AUDIO_LATENTS_PER_SECOND, AUDIO_SAMPLE_RATE
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.config.value_types import BF16_BYTES, FP32_BYTES
from ltxcore.models.files.source import ModelSource
from ltxcore.pipeline.base.contract import RENDER
from ltxcore.pipeline.base.stamp import newest_stamp
from ltxcore.stages.train_lora.lora_sides import export_suffixes
from ltxcore.store.snapshot import ConditioningClip, Sample, SoundSelection
from ltxcore.store.texts import TextStore
from ltxcore.store.workspace import Workspace
from ltxcore.training.targets import default_targets
from ltxcore.validation.rendering_settings import settings_of_renderings

USUAL_BYTES_PER_PIXEL = 0.05
"""Of H.264 at crf 18: 4 Mbit/s for 768x512 at 25 fps, until videos of this workspace tell."""
USUAL_TOKENS_PER_CHARACTER = 0.25
"""Of English in Gemma's vocabulary, until captions of this model are in the store."""


def waveform_bytes(sound: SoundSelection) -> int:
    """Float32 stereo at 16 kHz."""
    return 2 * round(sound.duration_s * AUDIO_SAMPLE_RATE) * FP32_BYTES


@dataclass(frozen=True)
class LatentSizes:
    """Sizes of latents by frames and seconds."""

    channels: int
    spatial: int
    temporal: int
    audio_width: int

    @classmethod
    def of(cls, source: ModelSource) -> LatentSizes:
        """From the model's configurations.

        Raises:
            ModelError: the model is not on this machine.
        """
        vae, audio = source.config("vae"), source.config("audio_vae")
        # Every level of the audio VAE but the first halves the mel bins.
        bins = audio["mel_bins"] // 2 ** (len(audio["ch_mult"]) - 1)
        return cls(
            channels=vae["latent_channels"],
            spatial=vae["spatial_compression_ratio"],
            temporal=vae["temporal_compression_ratio"],
            audio_width=audio["latent_channels"] * bins,
        )

    def tracks(self, sample: Sample, beside: Iterable[ConditioningClip]) -> list[int]:
        """Bytes of each latent track, in the order of the keys: what is encoded beside a sample, and it."""
        pictures = [self._latents(other) * (1 if other.measured else self.channels) for other in beside]
        pictures += [self._latents(sample) * self.channels]
        lengths = [max(1, round(sound.duration_s * AUDIO_LATENTS_PER_SECOND)) for sound in sample.sounds]
        return pictures + [length * self.audio_width * BF16_BYTES for length in lengths]

    def _latents(self, shown: Sample | ConditioningClip) -> int:
        """Bytes of one channel."""
        width, height = shown.geometry.target
        frames = (shown.frames.count - 1) // self.temporal + 1
        return frames * (width // self.spatial) * (height // self.spatial) * BF16_BYTES


@dataclass(frozen=True)
class TextSizes:
    """Sizes of text features; a caption's tokens are counted only when it is encoded."""

    width: int
    max_tokens: int
    tokens_per_character: float

    @classmethod
    def of(cls, source: ModelSource, store: TextStore) -> TextSizes:
        """Widths from the model; tokens a character from this workspace's stored features."""
        connectors = source.config("connectors")
        width = connectors["caption_channels"]
        if connectors.get("per_modality_projections"):
            width = connectors["video_hidden_dim"] + connectors["audio_hidden_dim"]
        rows = [store.read(key) for key, _ in list(store.index.items())[:64]]
        characters = sum(len(row.caption) for row in rows if not row.truncated_from)
        tokens = sum(len(row.video) for row in rows if not row.truncated_from)
        rate = tokens / characters if characters else USUAL_TOKENS_PER_CHARACTER
        return cls(width, source.text_max_tokens, rate)

    def caption(self, text: str) -> int:
        """Bytes of a caption's features."""
        tokens = min(self.max_tokens, 1 + ceil(len(text) * self.tokens_per_character))
        return tokens * self.width * BF16_BYTES


def adapter_parameters(
    source: ModelSource,
    lora: LoraSettings,
    has_sound: bool,
    has_video: bool = True,
    frozen: Modality | None = None,
) -> int:
    """Parameters of a LoRA: rank times (rows + columns) of every target."""
    suffixes = lora.lora_targets or default_targets(has_sound, has_video, frozen)
    linears = [
        shape
        for name, shape in source.shapes("transformer").items()
        if name.endswith(".weight")
        and len(shape) == 2
        and f".{name.removesuffix('.weight')}".endswith(tuple(f".{suffix}" for suffix in suffixes))
    ]
    return sum(lora.rank_by_size * (rows + columns) for rows, columns in linears)


def bytes_per_pixel(workspace: Workspace) -> tuple[float, bool]:
    """Bytes a pixel of rendered videos with sound and posters, from the newest gallery; and whether there is
    one."""
    stamp = newest_stamp(workspace, RENDER)
    if stamp is None or not stamp.outcome.counts.get("renderings"):
        return USUAL_BYTES_PER_PIXEL, False
    plans = settings_of_renderings(ValidationSettings.model_validate(stamp.request["validation"]))
    each = sum(plan.pixels for plan in plans) / len(plans)
    pixels = each * stamp.outcome.counts["renderings"]
    return sum(file.size_bytes for file in stamp.outcome.files) / pixels, True


def training_bytes(parameters: int, steps: int, settings: TrainingSettings) -> int:
    """Both files of each LoRA (float32 and bf16) and the checkpoints that are kept, all of float32.

    A checkpoint has the weights, two moments and the average, if one is kept.
    """
    checkpoints = min(settings.checkpoints_total_limit, ceil(steps / settings.checkpoint_step_interval))
    files = len(export_suffixes(settings)) * (FP32_BYTES + BF16_BYTES)
    return parameters * (files + checkpoints * (3 + settings.use_ema) * FP32_BYTES)
