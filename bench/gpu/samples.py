"""Random clips of one bucket, the bare loop on them, and the planner's view of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.gpu.model import random_connectors
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.memory.placement import Placement, place_connectors
from ltxcore.memory.planner.cards import CARDS
from ltxcore.memory.planner.training_planner import Planner, Workload
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.pipeline.plan.transformer_plan import planner_for
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.batch_entry import Entry
from ltxcore.training.data import TrainingSample
from ltxcore.training.loop import train
from ltxcore.training.metrics import StepMetrics

FPS = 25.0
SMALL_TEXT_TOKENS, TEXT_TOKENS = 16, 1024
SMALL_SIZE, SMALL_FRAMES = (64, 64), 9


class RandomClips:
    """A sample source: latents and text features of the right shapes, with sound."""

    def __init__(self, size: tuple[int, int], frames: int, config: dict[str, Any], small: bool) -> None:
        self.size, self.frames = (SMALL_SIZE, SMALL_FRAMES) if small else (size, frames)
        self.text_tokens = SMALL_TEXT_TOKENS if small else TEXT_TOKENS
        self._config, self._small = config, small
        width, height = self.size
        self._latent = (config["in_channels"], (self.frames - 1) // 8 + 1, height // 32, width // 32)
        self._audio = (max(1, round(self.frames / FPS * 25)), config["audio_in_channels"])

    def entries(self) -> list[Entry]:
        bucket = f"{self.size[0]}x{self.size[1]}@{self.frames}"
        return [Entry(f"clip{number}", bucket, FPS, has_audio=True, captions=1) for number in range(8)]

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        draw = torch.Generator().manual_seed(derive_seed(0, "bench", sample_id))
        features = torch.randn(self.text_tokens // 4, self._config["caption_channels"], generator=draw)
        return TrainingSample(
            video=torch.randn(self._latent, generator=draw).bfloat16(),
            audio=torch.randn(self._audio, generator=draw).bfloat16(),
            audio_valid=self._audio[0],
            features=TextFeatures(features.bfloat16()),
            fps=FPS,
        )

    def train(
        self,
        transformer: Any,
        placement: Placement,
        training: TrainingSettings,
        on_step: Callable[[StepMetrics], None],
        **sections: Any,
    ) -> Any:
        """Train a LoRA of rank 16 on these clips.

        Args:
            transformer: in its placement.
            placement: of its weights.
            training: that section of the recipe.
            on_step: called after each step.
            sections: of the recipe beside it.

        Returns:
            The connectors that it computed with, on the device.
        """
        device = placement.device.type
        connectors = random_connectors(self._small, device)
        place_connectors(connectors, device, streamed=False)
        recipe = Recipe(lora=LoraSettings(lora_rank=16), training=training, **sections)
        with tempfile.TemporaryDirectory() as directory:
            train(
                transformer,
                connectors,
                self,
                recipe,
                Path(directory),
                run_fingerprint="bench",
                max_tokens=self.text_tokens,
                placement=placement,
                on_step=on_step,
            )
        return connectors

    def bare_step_s(self, transformer: Any, batch: int, device: str, steps: int) -> float:
        """Median seconds of forward and backward alone, checkpointed as the training was."""

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device, dtype=torch.bfloat16)

        sigma = torch.full((batch,), 0.5, device=device)
        text = normal(batch, self.text_tokens, self._config["caption_channels"])
        video, audio = normal(batch, *self._latent), normal(batch, *self._audio)
        modulation = install_cross_modulation(transformer)
        transformer.train()
        times = []
        for _ in range(steps + 1):
            started = time.monotonic()
            with torch.autocast(device, torch.bfloat16):
                velocities = predict_velocity(
                    transformer,
                    video=video,
                    audio=audio,
                    video_times=sigma,
                    audio_times=sigma,
                    video_sigma=sigma,
                    audio_sigma=sigma,
                    video_embeds=text,
                    audio_embeds=text,
                    fps=FPS,
                )
            sum(v.float().square().mean() for v in velocities if v is not None).backward()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - started)
            for parameter in transformer.parameters():
                parameter.grad = None
        modulation.remove()
        return median(times[1:])

    def planned(self, transformer: Any, connectors: Any, batch: int) -> tuple[Planner, Workload]:
        """What the planner is told of this model and these clips."""
        from ltxcore.training.targets import default_targets

        def shapes(model: Any) -> dict[str, tuple[int, ...]]:
            return {
                name.replace(".base_layer", ""): tuple(parameter.shape)
                for name, parameter in model.named_parameters()
                if ".lora_" not in name
            }

        card = CARDS["h200"]
        planner = planner_for(shapes(transformer), shapes(connectors), self._config, card, 2)
        width, height = self.size
        workload = Workload(
            width, height, self.frames, batch, FPS, True, self.text_tokens, 16, default_targets(True)
        )
        return planner, workload
