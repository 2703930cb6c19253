"""Sizes: legal frame counts, targets that depend on the shape alone, crops that depend on the clip alone."""

from __future__ import annotations

from typing import Any

import pytest

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.config.geometry import GEOMETRY
from ltxcore.media.buckets import geometry, target_size
from ltxcore.media.errors import MediaError


def dataset(**more: Any) -> VideoDataset:
    return VideoDataset(id="clips", dataset_type="video", instance_data_dir="clips", **more)


@pytest.mark.parametrize(
    ("count", "legal"),
    [(0, 1), (1, 1), (2, 1), (8, 1), (9, 9), (48, 41), (49, 49), (50, 49), (61, 57), (81, 81), (100, 97),
     (119, 113), (125, 121)],
)  # fmt: skip
def test_legal_frames(count: int, legal: int) -> None:
    assert GEOMETRY.legal_frames(count) == legal


@pytest.mark.parametrize(
    ("size", "resolution", "kind", "alignment", "expected"),
    [
        ((1920, 1080), 480, "pixel", 32, (864, 480)),
        ((1080, 1920), 480, "pixel", 32, (480, 864)),
        ((1000, 1000), 500, "pixel", 32, (512, 512)),
        ((1920, 1080), 512, "pixel_area", 32, (672, 384)),
        ((1920, 1080), 512, "pixel_area", 64, (704, 384)),
        ((1920, 1080), 0.25, "area", 32, (672, 384)),
        ((640, 640), 1.0, "area", 32, (992, 992)),
        ((640, 640), 1.0, "area", 64, (1024, 1024)),
        ((256, 160), 128, "pixel_area", 32, (160, 96)),
        ((4000, 100), 32, "pixel_area", 32, (192, 32)),
        ((100, 20000), 64, "pixel_area", 32, (32, 640)),
    ],
)
def test_target_size(
    size: tuple[int, int], resolution: float, kind: Any, alignment: int, expected: tuple[int, int]
) -> None:
    assert target_size(*size, resolution, kind, alignment) == expected


def test_clips_of_one_shape_share_a_target_whatever_their_size() -> None:
    shapes = [(1920, 1080), (1280, 720), (854, 480), (1920, 1082)]
    assert len({target_size(*shape, 512, "pixel_area", 32) for shape in shapes}) == 1


@pytest.mark.parametrize("size", [(1920, 1080), (333, 777), (5000, 90), (64, 64), (90, 5000)])
def test_the_resampled_picture_covers_the_target(size: tuple[int, int]) -> None:
    for style in ("center", "corner", "random"):
        found = geometry(dataset(crop_style=style, resolution=256), *size, media_id="ab")
        for edge in (0, 1):
            assert 0 <= found.crop_xy[edge] <= found.resize[edge] - found.target[edge]
        assert found.resize[0] == found.target[0] or found.resize[1] == found.target[1]
        assert found.source == size


def test_crop_styles() -> None:
    wide = (1000, 256)
    of = {
        style: geometry(dataset(crop_style=style, resolution=256, resolution_type="pixel"), *wide, "m")
        for style in ("center", "corner")
    }
    assert of["center"].resize == (1000, 256)
    assert of["center"].target == (992, 256)
    assert of["center"].crop_xy == (4, 0)
    assert of["corner"].crop_xy == (0, 0)


def test_a_random_crop_belongs_to_the_clip_not_to_the_order() -> None:
    chosen = dataset(crop_style="random", resolution=256, aspect_bucket_alignment=64)
    offsets = [geometry(chosen, 1000, 420, f"clip {n}").crop_xy for n in range(40)]
    assert [geometry(chosen, 1000, 420, f"clip {n}").crop_xy for n in range(40)] == offsets
    assert len(set(offsets)) > 10


def test_shapes_outside_the_limits_are_refused_with_the_limit() -> None:
    limits = dataset(minimum_aspect_ratio=0.5, maximum_aspect_ratio=1.78)
    geometry(limits, 1920, 1080, "m")
    with pytest.raises(MediaError, match=r"ratio 2\.00 \(200x100\), and maximum_aspect_ratio is 1\.78"):
        geometry(limits, 200, 100, "m")
    with pytest.raises(MediaError, match=r"ratio 0\.40 \(40x100\), and minimum_aspect_ratio is 0\.5"):
        geometry(limits, 40, 100, "m")
