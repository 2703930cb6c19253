"""A small LTX-2 transformer with several blocks, fixed inputs for it, and a few steps of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.versions import VERSIONS
from ltxcore.training.adapters import Reading, in_place
from ltxcore.training.lora import add_lora, lora_parameters, target_modules

WIDTHS = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "cross_attention_dim": 64,
    "audio_in_channels": 8,
    "audio_out_channels": 8,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 32,
    "caption_channels": 48,
}


def make_transformer(layers: int = 6, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The same random weights every time, on the CPU."""
    from diffusers import LTX2VideoTransformer3DModel

    config = {**VERSIONS["2.0"].transformer, **WIDTHS, "num_layers": layers, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return LTX2VideoTransformer3DModel(**config).to(dtype).eval().requires_grad_(False)


@dataclass
class Inputs:
    """One batch of two samples."""

    values: dict[str, Any]

    @classmethod
    def random(cls, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Inputs:
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw).to(device, dtype)

        sigma = torch.tensor([0.3, 0.8]).to(device)
        return cls(
            {
                "video": normal(2, 16, 3, 2, 2),
                "audio": normal(2, 17, 8),
                "video_times": sigma,
                "audio_times": sigma.flip(0),
                "video_sigma": sigma,
                "audio_sigma": sigma.flip(0),
                "video_embeds": normal(2, 16, 48),
                "audio_embeds": normal(2, 16, 48),
                "fps": 25.0,
            }
        )


def velocity(transformer: Any, inputs: Inputs) -> torch.Tensor:
    """Both velocities as one flat tensor."""
    modulation = install_cross_modulation(transformer)
    try:
        video, audio = predict_velocity(transformer, **inputs.values)
    finally:
        modulation.remove()
    assert audio is not None
    return torch.cat([video.flatten(), audio.flatten()])


@dataclass
class Trained:
    """What a few steps left."""

    losses: list[float]
    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]

    def assert_equal(self, other: Trained) -> None:
        assert self.losses == other.losses
        for ours, theirs in ((self.gradients, other.gradients), (self.weights, other.weights)):
            assert ours.keys() == theirs.keys()
            different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
            assert not different, different[:3]


def train(
    transformer: Any,
    *,
    steps: int = 3,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    after_lora: Callable[[Any], None] = lambda transformer: None,
    settings: LoraSettings | None = None,
    reading: Reading = in_place,
) -> Trained:
    """Adapter, AdamW, a few steps; the gradients are those of the last step."""
    settings = settings or LoraSettings(lora_rank=4, lora_dropout=0.1)
    add_lora(transformer, settings, target_modules(transformer, with_audio=True), 1, reading)
    after_lora(transformer)
    parameters = lora_parameters(transformer)
    for parameter in parameters.values():
        parameter.data = parameter.data.to(device)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    transformer.train()
    losses = []
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(step)
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = velocity(transformer, Inputs.random(step, device, dtype)).float().square().mean()
        loss.backward()
        losses.append(loss.item())
        gradients = {n: p.grad.clone().cpu() for n, p in parameters.items() if p.grad is not None}
        optimizer.step()
    transformer.eval()
    return Trained(losses, gradients, {n: p.detach().clone().cpu() for n, p in parameters.items()})
