"""What is given of each sample: the recipe's conditions as masks of tokens, in both modalities."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from ltxcore.config.base import parse
from ltxcore.config.conditioning_settings import ConditioningSettings, Prefix, Suffix
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.predict_velocity import Reference
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.training.conditioning import (
    Draws,
    given_audio,
    given_video,
    masked_times,
    prefix_frames,
    suffix_frames,
)
from ltxcore.training.data import Batch, TrainingSample, collate
from ltxcore.training.objective import noise_batch, patchify

FRAMES, HEIGHT, WIDTH, LENGTH = 4, 3, 5, 25
"""Latent frames of 25 frames, a second at 25 a second."""


def sample(frames: int = FRAMES, audio: int | None = LENGTH, **more: Any) -> TrainingSample:
    return TrainingSample(
        video=torch.randn(16, frames, HEIGHT, WIDTH),
        audio=None if audio is None else torch.randn(audio, 8),
        audio_valid=audio or 0,
        features=TextFeatures(video=torch.zeros(3, 48, dtype=torch.bfloat16), audio=None),
        fps=25.0,
        **more,
    )


def batch(count: int = 1, **more: Any) -> Batch:
    return collate([f"s{n}" for n in range(count)], [sample(**more) for _ in range(count)])


def given(
    video: list[dict[str, Any]] | None = None, audio: list[dict[str, Any]] | None = None
) -> ConditioningSettings:
    data = {"video": {"conditions": video or []}, "audio": {"conditions": audio or []}}
    settings: ConditioningSettings = parse(ConditioningSettings, data, "recipe")
    return settings


def video_grid(clips: Batch, *conditions: dict[str, Any], number: int = 0) -> torch.Tensor:
    """bool [B, F, H, W]."""
    found = given_video(clips, given(list(conditions)), Draws(1, number))
    assert found is not None
    return found.reshape(len(clips.sample_ids), -1, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("condition", "latents"),
    [
        ({"type": "first_frame"}, [0]),
        ({"type": "prefix", "frames": 1}, [0]),
        ({"type": "prefix", "frames": 9}, [0, 1]),
        ({"type": "prefix", "frames": 16}, [0, 1]),
        ({"type": "prefix", "frames": 17}, [0, 1, 2]),
        ({"type": "suffix", "frames": 8}, [3]),
        ({"type": "suffix", "frames": 15}, [3]),
        ({"type": "suffix", "frames": 16}, [2, 3]),
    ],
)
def test_stretches_are_whole_latent_frames(condition: dict[str, Any], latents: list[int]) -> None:
    grid = video_grid(batch(), condition)[0]
    assert grid.flatten(1).any(1).nonzero().flatten().tolist() == latents
    assert torch.equal(grid.flatten(1).any(1), grid.flatten(1).all(1))


def test_the_sound_under_a_stretch_is_given_as_long_as_its_frames_last() -> None:
    clips = batch()
    both = [{"type": "prefix", "frames": 9}]
    sound = given_audio(clips, given(both, both), Draws(1, 0))
    assert sound is not None
    assert sound[0].nonzero().flatten().tolist() == list(range(9))
    end = given_audio(clips, given(audio=[{"type": "suffix", "frames": 8}]), Draws(1, 0))
    assert end is not None
    assert end[0].nonzero().flatten().tolist() == list(range(LENGTH - 8, LENGTH))
    slower = replace(clips, fps=12.5)
    assert given_audio(slower, given(audio=both), Draws(1, 0)).sum() == 18  # type: ignore[union-attr]


def test_pictures_and_sound_are_extended_by_the_same_stretch() -> None:
    clips = batch(200)
    stretch = [{"type": "prefix", "frames": [1, 24], "probability": 0.5}]
    settings = given(stretch, stretch)
    video, audio = given_video(clips, settings, Draws(3, 0)), given_audio(clips, settings, Draws(3, 0))
    assert video is not None
    assert audio is not None
    latents = video.reshape(200, FRAMES, -1).all(2).sum(1)
    frames = torch.where(latents > 0, 8 * (latents - 1) + 1, 0)
    assert torch.equal(audio.sum(1), frames)
    assert set(latents.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("area", [0.1, [0.2, 0.6], 0.9])
def test_a_crop_is_one_rectangle_in_all_frames_and_leaves_something(area: Any) -> None:
    grid = video_grid(batch(60), {"type": "spatial_crop", "area": area})
    assert torch.equal(grid[:, :1].expand_as(grid), grid)
    places = set()
    for rectangle in grid[:, 0]:
        rows, columns = rectangle.any(1).nonzero().flatten(), rectangle.any(0).nonzero().flatten()
        assert rectangle.sum() == len(rows) * len(columns) < HEIGHT * WIDTH
        assert all(after - before == 1 for edge in (rows, columns) for before, after in pairwise(edge))
        places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 1


def test_a_crop_has_the_share_of_the_area_that_was_drawn() -> None:
    wide = replace(batch(200), video=torch.zeros(200, 1, 1, 40, 60))
    found = given_video(wide, given([{"type": "spatial_crop", "area": [0.2, 0.6]}]), Draws(0, 0))
    assert found is not None
    shares = found.float().mean(1)
    assert 0.18 < shares.min() < 0.25
    assert 0.55 < shares.max() < 0.62
    assert shares.mean().item() == pytest.approx(0.4, abs=0.03)


def test_black_is_given_and_white_is_made() -> None:
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH)
    mask[2, 1, 3] = 0.01
    mask[3] = 1.0
    clips = batch(mask=mask)
    grid = video_grid(clips, {"type": "mask"})[0]
    assert torch.equal(grid, mask == 0)
    sound = given_audio(clips, given(audio=[{"type": "mask"}]), Draws(0, 0))
    assert sound is not None
    # White from latent frame 2 on, which begins with frame 9.
    assert sound[0].nonzero().flatten().tolist() == list(range(9))


def test_a_sample_without_a_mask_is_given_nothing() -> None:
    mask = torch.zeros(FRAMES, HEIGHT, WIDTH)
    mask[0] = 1
    clips = collate(["masked", "bare"], [sample(mask=mask), sample()])
    grid = video_grid(clips, {"type": "mask"})
    assert grid[0].any()
    assert not grid[1].any()


@pytest.mark.parametrize(("fps", "length"), [(25.0, 17), (12.5, 34), (50.0, 9)])
def test_the_sounds_mask_follows_the_frames_in_time(fps: float, length: int) -> None:
    mask = torch.zeros(3, 2, 2)
    mask[1, 0, 0] = 1
    white = masked_times(mask, length, fps)
    middle_s = (torch.arange(length) + 0.5) / 25
    # Latent frame 1 is frames 1 to 8.
    assert torch.equal(white, (middle_s * fps >= 1) & (middle_s * fps < 9))


def test_a_condition_comes_as_often_as_asked() -> None:
    clips = batch(2000, frames=2)
    grid = video_grid(clips, {"type": "first_frame", "probability": 0.3})
    assert grid[:, 0].all((1, 2)).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert not grid[:, 1].any()


def test_draws_belong_to_the_sample_and_not_to_its_place() -> None:
    settings = given([{"type": "prefix", "frames": [1, 24], "probability": 0.6}])
    clips = batch(32)
    turned = replace(clips, sample_ids=clips.sample_ids[::-1])
    found, other = (given_video(b, settings, Draws(5, 9)) for b in (clips, turned))
    assert found is not None
    assert other is not None
    assert torch.equal(found, other.flip(0))
    assert not torch.equal(found, given_video(clips, settings, Draws(5, 10)))  # type: ignore[arg-type]
    assert not torch.equal(found, given_video(clips, settings, Draws(6, 9)))  # type: ignore[arg-type]


def test_what_would_leave_nothing_is_left_out_of_that_sample() -> None:
    """A picture is never conditioned on itself; of two conditions the first stays."""
    still = batch(frames=1, audio=None)
    assert given_video(still, given([{"type": "first_frame"}]), Draws(0, 0)) is None
    grid = video_grid(batch(), {"type": "prefix", "frames": 17}, {"type": "suffix", "frames": 8})[0]
    assert grid.flatten(1).all(1).tolist() == [True, True, True, False]
    padded = replace(batch(), audio_mask=torch.tensor([[1.0] * 5 + [0.0] * 20]))
    prefix = given(audio=[{"type": "prefix", "frames": 9}])
    assert given_audio(padded, prefix, Draws(0, 0)) is None, "only padding would be left"


def test_sound_alone_has_no_conditions_of_its_zeros() -> None:
    sound = batch(has_video=False)
    assert given_video(sound, given([{"type": "first_frame"}]), Draws(0, 0)) is None


def test_given_tokens_stay_clean_at_time_zero_and_leave_the_loss_in_both_modalities() -> None:
    clips = batch(2)
    stretch = [{"type": "suffix", "frames": 8}]
    settings = TrainingSettings()
    plain, noised = (
        noise_batch(clips, settings, 4, chosen)
        for chosen in (ConditioningSettings(), given(stretch, stretch))
    )
    assert plain.audio is not None
    assert noised.audio is not None
    assert clips.audio is not None
    for before, part, latents in (
        (plain.video, noised.video, patchify(clips.video)),
        (plain.audio, noised.audio, clips.audio),
    ):
        assert part.clean is not None
        assert torch.equal(part.tokens[part.clean], latents[part.clean])
        assert torch.equal(part.tokens[~part.clean], before.tokens[~part.clean])
        assert torch.equal(part.mask, (~part.clean).float())
        assert part.times.shape == part.clean.shape
        assert not part.times[part.clean].any()
        assert before.times.shape == (2,), "per-token times only where something is given"


def test_the_seeds_key_is_a_first_frame_condition() -> None:
    clips = batch(64)
    settings = TrainingSettings(ltx2_first_frame_conditioning_probability=0.5)
    recipe = Recipe(training=settings)
    condition = given([{"type": "first_frame", "probability": 0.5}])
    by_key = noise_batch(clips, settings, 0).video.clean
    by_recipe = noise_batch(clips, settings, 0, recipe.given).video.clean
    by_list = noise_batch(clips, settings, 0, condition).video.clean
    assert by_key is not None
    assert by_recipe is not None
    assert by_list is not None
    assert torch.equal(by_key, by_list)
    assert torch.equal(by_key, by_recipe)


def test_a_reference_comes_with_the_batch_as_often_as_asked() -> None:
    two = (Reference(torch.randn(16, 2, 3, 5), 1, 2), Reference(torch.randn(16, 1, 3, 5)))
    clips = batch(2, references=two)
    assert [(r.spatial_factor, r.temporal_factor) for r in clips.references] == [(1, 2), (1, 1)]
    assert [r.latents.shape for r in clips.references] == [(2, 16, 2, 3, 5), (2, 16, 1, 3, 5)]
    settings = given([{"type": "reference", "probability": 0.4}])
    found = [noise_batch(clips, TrainingSettings(), n, settings).references for n in range(400)]
    assert sum(bool(given) for given in found) / 400 == pytest.approx(0.4, abs=0.07)
    assert all(given is clips.references for given in found if given), "all of them or none"
    assert noise_batch(clips, TrainingSettings(), 0).references == (), "no condition asks for it"


def test_references_of_unequal_shape_are_refused_in_one_batch() -> None:
    one, other = (Reference(torch.zeros(16, frames, 3, 5)) for frames in (2, 1))
    shapes = [sample(references=(one,)), sample(references=(other,))]
    for pair in (shapes, [shapes[0], sample()], [shapes[0], sample(references=(one, one))]):
        with pytest.raises(ValueError, match="references"):
            collate(["a", "b"], pair)


def test_lengths_are_drawn_over_the_whole_range() -> None:
    prefix, suffix = Prefix(type="prefix", frames=(1, 32)), Suffix(type="suffix", frames=(8, 23))
    shares = [n / 997 for n in range(997)]
    prefixes = [prefix_frames(prefix, lambda _, share=share: share) for share in shares]
    assert {n: prefixes.count(n) for n in set(prefixes)} == pytest.approx(
        {1: 249, 9: 249, 17: 249, 25: 249}, abs=2
    )
    assert {suffix_frames(suffix, lambda _, share=share: share) for share in shares} == {8, 16}


@pytest.mark.parametrize(
    ("conditioning", "named"),
    [
        ({"video": {"mode": "frozen"}, "audio": {"mode": "frozen"}}, "nothing is left to learn"),
        ({"video": {"mode": "frozen", "conditions": [{"type": "first_frame"}]}}, "conditioning.video"),
        ({"audio": {"mode": "given"}}, "conditioning.audio.mode"),
        ({"audio": {"conditions": [{"type": "first_frame"}]}}, "conditioning.audio.conditions.0"),
        ({"audio": {"conditions": [{"type": "reference", "position": "after"}]}}, "conditions.0.position"),
        ({"audio": {"conditions": [{"type": "keyframes", "at": 3}]}}, "conditioning.audio.conditions.0"),
        ({"video": {"conditions": [{"type": "first_frame"}] * 2}}, "first_frame twice"),
        ({"video": {"conditions": [{"type": "prefix"}]}}, "conditions.0.frames: is required"),
        ({"video": {"conditions": [{"type": "prefix", "frames": 0}]}}, "conditions.0.frames"),
        ({"video": {"conditions": [{"type": "prefix", "frames": [9, 1]}]}}, "conditions.0.frames"),
        ({"video": {"conditions": [{"type": "prefix", "frame": 9}]}}, "conditions.0.frame: is not a known"),
        ({"video": {"conditions": [{"type": "suffix", "frames": 7}]}}, "conditions.0.frames"),
        ({"video": {"conditions": [{"type": "spatial_crop", "area": 1.0}]}}, "conditions.0.area"),
        ({"video": {"conditions": [{"type": "spatial_crop", "area": 0}]}}, "conditions.0.area"),
        ({"video": {"conditions": [{"type": "mask", "probability": 0}]}}, "conditions.0.probability"),
        ({"video": {"conditions": [{"type": "mask", "probability": 1.5}]}}, "conditions.0.probability"),
        ({"video": {"conditions": [{"type": "keyframes"}]}}, "conditions.0.at: is required"),
        ({"video": {"conditions": [{"type": "keyframes", "at": []}]}}, "conditions.0.at"),
        ({"video": {"conditions": [{"type": "keyframes", "at": [3, 3]}]}}, "names frame 3 twice"),
        ({"video": {"conditions": [{"type": "every_nth"}]}}, "every_nth"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(conditioning: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match="conditioning") as caught:
        parse(Recipe, {"conditioning": conditioning}, "recipe")
    assert named in str(caught.value)


@pytest.mark.parametrize("video", [{"conditions": [{"type": "first_frame"}]}, {"mode": "frozen"}])
def test_the_seeds_key_beside_what_contradicts_it_is_refused(video: dict[str, Any]) -> None:
    data = {"training": {"ltx2_first_frame_conditioning_probability": 0.1}, "conditioning": {"video": video}}
    with pytest.raises(ConfigError, match="ltx2_first_frame_conditioning_probability"):
        parse(Recipe, data, "recipe")
