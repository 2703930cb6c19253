"""What is given beside a sample, in tokens of its own: the loss does not reach it, and it is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.predict_velocity import Reference, predict_velocity
from ltxcore.training.data import Batch
from ltxcore.training.objective import Losses, NoisedBatch, losses, noise_batch, patchify, unpatchify
from tests.unit.toy_transformer import make_transformer
from tests.unit.training.test_conditioning import FRAMES, HEIGHT, WIDTH, batch, given

SETTINGS = TrainingSettings(seed=3)
OWN = FRAMES * HEIGHT * WIDTH


class Answer:
    """The loss of a batch by a real transformer, and what that answered token by token."""

    def __init__(self, transformer: Any, clips: Batch, noised: NoisedBatch) -> None:
        self._answers: dict[str, torch.Tensor] = {}
        hooks = [
            getattr(transformer, name).register_forward_hook(self._keep(name))
            for name in ("proj_out", "audio_proj_out")
        ]
        assert noised.audio is not None
        text = torch.Generator().manual_seed(5)
        video, audio = predict_velocity(
            transformer,
            video=unpatchify(noised.video.tokens, like=clips.video),
            audio=noised.audio.tokens,
            video_times=noised.video.times,
            audio_times=noised.audio.times,
            video_sigma=noised.video.sigma,
            audio_sigma=noised.audio.sigma,
            video_embeds=torch.randn(1, 16, 48, generator=text),
            audio_embeds=torch.randn(1, 16, 48, generator=text),
            fps=clips.fps,
            references=noised.references,
        )
        for hook in hooks:
            hook.remove()
        self.losses: Losses = losses(patchify(video), audio, noised)

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the loss by what was answered of pictures [N, C] and of sound [L, D]."""
        self.losses.total.backward()
        found = [self._answers[name].grad for name in ("proj_out", "audio_proj_out")]
        video, audio = (grad[0] for grad in found if grad is not None)
        return video, audio

    def _keep(self, name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            output.requires_grad_(True)
            output.retain_grad()
            self._answers[name] = output

        return hook


def referred(*latents: torch.Tensor) -> Batch:
    """A batch of one with references; those of a quarter of the frames are smaller, too."""
    factors = [(2, 4) if one.shape[1] == 1 else (1, 1) for one in latents]
    return batch(references=tuple(Reference(one, *each) for one, each in zip(latents, factors, strict=True)))


def references() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return (
        torch.randn(16, FRAMES, HEIGHT, WIDTH, generator=generator),
        torch.randn(16, 1, 2, 3, generator=generator),
    )


def test_the_gradient_through_several_references_is_exactly_zero() -> None:
    clips = referred(*references())
    noised = noise_batch(clips, SETTINGS, 0, given([{"type": "reference"}]))
    video, audio = Answer(make_transformer(layers=2), clips, noised).gradients()
    assert len(video) == OWN + OWN + 6
    assert torch.equal(video[OWN:], torch.zeros_like(video[OWN:]))
    assert (video[:OWN].abs().amax(1) > 0).all()
    assert (audio.abs().amax(1) > 0).all()


@pytest.mark.parametrize("changed", [0, 1])
def test_each_of_several_references_is_seen(changed: int) -> None:
    clips = referred(*references())
    noised = noise_batch(clips, SETTINGS, 0, given([{"type": "reference"}]))
    others = list(noised.references)
    others[changed] = replace(others[changed], latents=others[changed].latents.flip(-1))
    swapped = replace(noised, references=tuple(others))
    transformer = make_transformer(layers=2)
    with torch.no_grad():
        losses_of = [float(Answer(transformer, clips, n).losses.total) for n in (noised, swapped)]
    assert abs(losses_of[0] - losses_of[1]) > 1e-5
