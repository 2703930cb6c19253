"""The loss on held-out clips: fixed clips, captions, sigmas and noise, so that only the model differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.conditioning import given_sound_reference
from ltxcore.training.data import Batch, TrainingSample, collate
from ltxcore.training.objective import Losses, NoisedBatch, add_noise, frozen, patchify
from ltxcore.training.step import noised_losses

LOSS, VIDEO, AUDIO = "eval_loss", "eval_video_loss", "eval_audio_loss"


@dataclass(frozen=True)
class HeldOutClip:
    """A clip that is evaluated and never trained on."""

    sample_id: str
    content: str
    """What its noise derives from: the hash of the file, so that a renamed clip keeps its noise."""


class Evaluation:
    """Measures a model on the held-out clips.

    Each clip is noised at each sigma, pictures and sound alike, with noise of its own, and goes through the
    model alone, with its first caption: the number does not depend on how clips are batched. Conditions that
    are drawn are left out, and nothing is dropped. No global random state is read or written.
    """

    def __init__(
        self,
        clips: Sequence[HeldOutClip],
        load: Callable[[str, int | None], TrainingSample],
        settings: EvaluationSettings,
        given: ConditioningSettings,
        connectors: Any,
        max_tokens: int,
        device: torch.device | str,
    ) -> None:
        """Evaluate on `clips`.

        Args:
            clips: at least one.
            load: `SampleSource.load`, which knows the held-out clips as well.
            settings: sigmas and the seed of the noise.
            given: the recipe's conditions: a frozen modality is given here too, and so are references.
            connectors: `LTX2TextConnectors`.
            max_tokens: text slots.
            device: where the model computes.
        """
        if not clips:
            raise ValueError("an evaluation needs at least one held-out clip")
        self.clips = tuple(sorted(clips, key=lambda clip: clip.content))
        self._load, self._settings, self._given = load, settings, given
        self._connectors, self._max_tokens, self._device = connectors, max_tokens, device

    @property
    def passes(self) -> int:
        """Forward passes of one evaluation."""
        return len(self.clips) * len(self._settings.eval_sigmas)

    def __call__(
        self, model: Any, should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        """Means over the clips: `eval_loss`, and each modality's loss over all sigmas and at each.

        `eval_loss` is the sum of the modalities' losses, as in training. A modality that no clip has is
        left out. None where `should_stop`, asked before each clip's pass, cut it short: a part of the clips
        is another number.
        """
        found: dict[str, list[float]] = {}
        with torch.no_grad(), _at_rest(model):
            for clip in self.clips:
                batch = self._batch(clip)
                for sigma in self._settings.eval_sigmas:
                    if should_stop():
                        return None
                    for kind, value in self._losses(model, batch, clip, sigma).items():
                        name = f"eval_{kind}_loss"
                        found.setdefault(name, []).append(value)
                        found.setdefault(f"{name}_sigma_{sigma:g}", []).append(value)
        means = {name: fmean(values) for name, values in sorted(found.items())}
        return {LOSS: sum(means[name] for name in (VIDEO, AUDIO) if name in means), **means}

    def of_clip(self, model: Any, clip: HeldOutClip) -> dict[str, dict[str, float]]:
        """The losses of one clip: modality (`video`, `audio`) -> sigma -> loss."""
        found: dict[str, dict[str, float]] = {}
        with torch.no_grad(), _at_rest(model):
            batch = self._batch(clip)
            for sigma in self._settings.eval_sigmas:
                for kind, value in self._losses(model, batch, clip, sigma).items():
                    found.setdefault(kind, {})[f"{sigma:g}"] = value
        return found

    def _batch(self, clip: HeldOutClip) -> Batch:
        return collate([clip.sample_id], [self._load(clip.sample_id, 0)]).to(torch.device(self._device))

    def _losses(self, model: Any, batch: Batch, clip: HeldOutClip, sigma: float) -> dict[str, float]:
        noised = fixed_noise(batch, sigma, self._settings.eval_seed, clip.content, self._given)
        loss: Losses = noised_losses(model, self._connectors, batch, noised, self._max_tokens)
        both = {"video": loss.video, "audio": loss.audio}
        return {kind: value.item() for kind, value in both.items() if value is not None}


def fixed_noise(
    batch: Batch, sigma: float, seed: int, content: str, given: ConditioningSettings
) -> NoisedBatch:
    """A clip's batch of one at noise level `sigma`, pictures and sound; the noise is the clip's own."""

    def generator(modality: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(seed, "evaluation", content, f"{sigma:g}", modality))

    level = torch.tensor([sigma], dtype=torch.float32)
    tokens = patchify(batch.video)
    if given.video.frozen and batch.has_video:
        video = frozen(tokens)
    else:
        mask = torch.full(tokens.shape[:2], float(batch.has_video))
        if batch.loss_mask is not None:
            mask = mask * batch.loss_mask.float().cpu().flatten(1)
        video = add_noise(tokens, level, generator("video"), None, mask)
    if batch.audio is None or batch.audio_mask is None:
        return NoisedBatch(video, None, references=batch.references)
    if given.audio.frozen:
        audio = frozen(batch.audio)
    else:
        audio = add_noise(batch.audio, level, generator("audio"), None, batch.audio_mask)
    heard = given_sound_reference(batch, given, None)
    return NoisedBatch(video, audio, batch.has_video, batch.references, heard)


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """Within, the model is in evaluation mode, without dropout."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
