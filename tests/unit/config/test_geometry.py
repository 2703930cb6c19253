"""Frames, edges and names of buckets come from one place each."""

from __future__ import annotations

import pytest

from ltxcore.config.bucket_list import Bucket, audio_bucket_name, bucket_name, is_bucket_name
from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.recipe import Recipe


@pytest.mark.parametrize(
    ("count", "legal", "nearest"), [(0, 1, 1), (1, 1, 1), (5, 1, 9), (12, 9, 9), (13, 9, 17), (121, 121, 121)]
)
def test_frames_are_one_more_than_whole_latents(count: int, legal: int, nearest: int) -> None:
    assert GEOMETRY.legal_frames(count) == legal
    assert GEOMETRY.nearest_frames(count) == nearest
    assert GEOMETRY.latent_frames(legal) == (legal - 1) // 8 + 1


@pytest.mark.parametrize(("pixels", "legal", "nearest"), [(31, 0, 32), (80, 64, 96), (768, 768, 768)])
def test_edges_are_whole_latents(pixels: int, legal: int, nearest: int) -> None:
    assert (GEOMETRY.legal_edge(pixels), GEOMETRY.nearest_edge(pixels)) == (legal, nearest)


def test_a_clip_has_as_many_tokens_as_its_latents_have_cells() -> None:
    assert GEOMETRY.grid(49, 1280, 704) == (7, 22, 40)
    assert GEOMETRY.video_tokens(49, 1280, 704) == Bucket(1280, 704, 49).tokens == 6160


@pytest.mark.parametrize(
    "name",
    [
        bucket_name(Bucket(512, 320, 49)),
        bucket_name(Bucket(512, 320, 49), Bucket(256, 160, 25)),
        bucket_name(Bucket(512, 320, 49), Bucket(512, 320, 49), Bucket(256, 160, 25)) + "+audio@5s",
        f"{audio_bucket_name(3.0)}+{audio_bucket_name(5.0)}",
        audio_bucket_name(2.56),
        audio_bucket_name(5.0),
    ],
)
def test_every_name_of_a_bucket_can_have_a_batch_size_of_its_own(name: str) -> None:
    assert is_bucket_name(name)
    recipe = Recipe.model_validate({"training": {"train_batch_size": {name: 3}}})
    assert recipe.training.train_batch_size == {name: 3}
