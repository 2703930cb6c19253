"""A loss mask: what is black takes no part in the loss, what is white does, and the sound is untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltxcore.config.agreement import check_agreement
from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.training.data import Batch
from ltxcore.training.evaluation import fixed_noise
from ltxcore.training.objective import losses, noise_batch, patchify, unpatchify
from tests.unit.toy_transformer import make_transformer
from tests.unit.training.test_conditioning import FRAMES, HEIGHT, WIDTH, batch

SETTINGS = TrainingSettings(seed=3)
RIGHT = torch.zeros(FRAMES, HEIGHT, WIDTH)
RIGHT[:, :, 2:] = 1.0
BLACK = RIGHT.flatten() == 0


def masked(mask: torch.Tensor = RIGHT, **more: Any) -> Batch:
    return batch(loss_mask=mask, **more)


def test_the_gradient_through_a_black_region_is_exactly_zero() -> None:
    """Of the loss by the real transformer's answer, and by its input there: no other path leads to it."""
    clips = masked()
    noised = noise_batch(clips, SETTINGS, 0)
    transformer = make_transformer(layers=2)
    answers = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            output.requires_grad_(True)
            output.retain_grad()
            answers[name] = output

        return hook

    transformer.proj_out.register_forward_hook(keep("video"))
    transformer.audio_proj_out.register_forward_hook(keep("audio"))
    assert noised.audio is not None
    video, audio = predict_velocity(
        transformer,
        video=unpatchify(noised.video.tokens, like=clips.video),
        audio=noised.audio.tokens,
        video_times=noised.video.times,
        audio_times=noised.audio.times,
        video_sigma=noised.video.sigma,
        audio_sigma=noised.audio.sigma,
        video_embeds=torch.randn(1, 16, 48),
        audio_embeds=torch.randn(1, 16, 48),
        fps=clips.fps,
        isolated=False,
    )
    losses(patchify(video), audio, noised).total.backward()
    gradient = answers["video"].grad
    assert gradient is not None
    assert torch.equal(gradient[0, BLACK], torch.zeros_like(gradient[0, BLACK]))
    assert (gradient[0, ~BLACK].abs().amax(1) > 0).all()
    heard = answers["audio"].grad
    assert heard is not None
    assert (heard.abs().amax(2) > 0).all(), "the sound counts whole"


def test_the_loss_is_the_mean_over_what_counts_and_grey_counts_by_its_share() -> None:
    shares = RIGHT.clone()
    shares[0] = 0.25
    clips = masked(shares)
    noised = noise_batch(clips, SETTINGS, 0)
    plain = noise_batch(replace(clips, loss_mask=None), SETTINGS, 0)
    assert torch.equal(noised.video.tokens, plain.video.tokens), "what the model sees is the same"
    prediction = torch.randn(noised.video.tokens.shape)
    error = (prediction - noised.video.target).square().mean(-1)[0]
    weights = shares.flatten()
    found = losses(prediction, torch.zeros_like(noised.audio.tokens), noised)  # type: ignore[union-attr]
    assert found.video == pytest.approx(float((error * weights).sum() / weights.sum()))
    whole = losses(prediction, torch.zeros_like(noised.audio.tokens), plain)  # type: ignore[union-attr]
    assert found.audio is not None
    assert torch.equal(found.audio, whole.audio)  # type: ignore[arg-type]


def test_masks_join_conditions_and_batches_without_one() -> None:
    first = ConditioningSettings().with_first_frame(1.0)
    noised = noise_batch(masked(), SETTINGS, 0, first)
    grid = noised.video.mask.reshape(FRAMES, HEIGHT, WIDTH)
    assert not grid[0].any(), "what is given is in no loss"
    assert torch.equal(grid[1:], RIGHT[1:])
    white = masked(torch.ones_like(RIGHT))
    both = noise_batch(white, SETTINGS, 0), noise_batch(replace(white, loss_mask=None), SETTINGS, 0)
    assert torch.equal(both[0].video.mask, both[1].video.mask)


def test_a_mask_is_used_as_often_as_asked_and_the_same_again() -> None:
    clips = masked(count=2)
    settings = SETTINGS.model_copy(update={"loss_mask_probability": 0.3})

    def used(number: int) -> list[bool]:
        mask = noise_batch(clips, settings, number).video.mask
        return [not row[BLACK].any() for row in mask]

    draws = [one for number in range(1000) for one in used(number)]
    spread = 3 * (0.3 * 0.7 / len(draws)) ** 0.5
    assert sum(draws) / len(draws) == pytest.approx(0.3, abs=spread)
    assert used(5) == used(5)


def test_held_out_clips_are_measured_where_they_count() -> None:
    noised = fixed_noise(masked(), 0.5, 0, "content", ConditioningSettings())
    assert torch.equal(noised.video.mask[0], RIGHT.flatten())


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"conditioning": {"video": {"mode": "frozen"}}}, "the pictures have no loss to weigh"),
        ({"crepa": {"crepa_enabled": True}}, "aligns whole pictures"),
    ],
)
def test_what_a_loss_mask_contradicts_is_refused(tmp_path: Path, recipe: dict[str, Any], words: str) -> None:
    for name in ("clips", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "datasets.yaml").write_text(
        "- {id: clips, dataset_type: video, instance_data_dir: clips, conditioning_data: masks}\n"
        "- {id: masks, dataset_type: conditioning, conditioning_type: loss_mask, instance_data_dir: masks}\n"
    )
    datasets = load_datasets(tmp_path / "datasets.yaml")
    check_agreement(Recipe(), datasets)
    with pytest.raises(ConfigError, match=words):
        check_agreement(Recipe.model_validate(recipe), datasets)
