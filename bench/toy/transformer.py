"""Trains the toy's transformer and connectors with the project's own objective, on encoded clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.toy.fitting import fit
from bench.toy.latents import Pool
from bench.toy.sizes import CONNECTORS, MAX_TOKENS, TEXT_WIDTH, TRANSFORMER
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.data import collate
from ltxcore.training.objective import losses as flow_losses
from ltxcore.training.objective import noise_batch, patchify, unpatchify

STEPS = 1350
BATCH = 16
LEARNING_RATE = 1.5e-3
CAPTION_DROPOUT = 0.1


class Denoiser(nn.Module):
    """Transformer and connectors, which are trained together. The feature extractor stays as it was drawn."""

    def __init__(self) -> None:
        from diffusers import LTX2VideoTransformer3DModel
        from diffusers.pipelines.ltx2 import LTX2TextConnectors

        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(0, "toy", "transformer"))
            self.transformer = LTX2VideoTransformer3DModel(**TRANSFORMER)
            self.connectors = LTX2TextConnectors(**CONNECTORS)
        # Text features are made once, by the extractor in bf16 as it is shipped.
        self.connectors.text_proj_in.to(torch.bfloat16).float().requires_grad_(False)

    def texts(self, captions: Sequence[TextFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the stages' `connect` gives, of a whole batch at once and with gradients."""
        text = torch.zeros(len(captions), MAX_TOKENS, TEXT_WIDTH)
        mask = torch.full((len(captions), 1, 1, MAX_TOKENS), torch.finfo(torch.float32).min)
        for row, caption in enumerate(captions):
            tokens = len(caption.video)
            text[row, :tokens], mask[row, ..., :tokens] = caption.video, 0
        video, audio = self.connectors.video_connector, self.connectors.audio_connector
        return video(text, mask)[0], audio(text, mask)[0]


def train_denoiser(pool: Pool, work: Path, steps: int = STEPS) -> None:
    """Train, or continue, in `work`."""
    model = Denoiser()
    install_cross_modulation(model.transformer)
    settings = TrainingSettings(seed=0, ltx2_first_frame_conditioning_probability=0.1)

    def losses(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(derive_seed(0, "toy", "transformer", step))
        samples = pool.batch(rng, BATCH, CAPTION_DROPOUT)
        batch = collate([str(number) for number in range(BATCH)], samples)
        noised = noise_batch(batch, settings, step)
        video, audio = noised.video, noised.audio
        assert audio is not None
        texts = model.texts([sample.features for sample in samples])
        velocities = predict_velocity(
            model.transformer,
            video=unpatchify(video.tokens, like=batch.video),
            audio=audio.tokens,
            video_times=video.times,
            audio_times=audio.times,
            video_sigma=video.sigma,
            audio_sigma=audio.sigma,
            video_embeds=texts[0],
            audio_embeds=texts[1],
            fps=batch.fps,
        )
        loss = flow_losses(patchify(velocities[0]), velocities[1], noised)
        assert loss.video is not None
        assert loss.audio is not None
        return {"video": loss.video, "audio": loss.audio}

    fit(model, losses, steps, LEARNING_RATE, work / "denoiser.safetensors", warmup=200)
