"""Sizes of samples: legal frame counts, the target size for a clip's shape, and the crop."""

from __future__ import annotations

from math import floor, log, sqrt

from ltxcore.config.dataset_kinds import PictureDataset, ResolutionType
from ltxcore.media.errors import MediaError
from ltxcore.store.fingerprint import derive_seed
from ltxcore.store.snapshot import Geometry


def aspect_key(width: int, height: int) -> float:
    """Width over height to two decimals: clips of one key share a size."""
    return max(0.01, round(width / height, 2))


def target_size(
    width: int, height: int, resolution: float, resolution_type: ResolutionType, alignment: int
) -> tuple[int, int]:
    """Width and height of the samples made from clips of this shape.

    They depend on the aspect key alone, so no clip's size moves when another is added. `pixel` gives the
    shorter edge, `area` the megapixels, `pixel_area` the edge of a square with the wanted area
    (edge² / 10⁶ megapixels). Both edges are rounded to multiples of `alignment`, and are at least one.
    """
    return size_of_aspect(aspect_key(width, height), resolution, resolution_type, alignment)


def size_of_aspect(
    aspect: float, resolution: float, resolution_type: ResolutionType, alignment: int
) -> tuple[int, int]:
    """`target_size` for a shape that is given as width / height."""
    if resolution_type == "pixel":
        edges = (resolution * max(1.0, aspect), resolution / min(1.0, aspect))
    else:
        area = resolution * 1e6 if resolution_type == "area" else resolution**2
        edges = (sqrt(area * aspect), sqrt(area / aspect))
    aligned_width, aligned_height = (max(1, floor(edge / alignment + 0.5)) * alignment for edge in edges)
    return aligned_width, aligned_height


def geometry(
    dataset: PictureDataset, width: int, height: int, media_id: str, target: tuple[int, int] | None = None
) -> Geometry:
    """How a clip of the displayed size `width` x `height` becomes a sample of its dataset.

    The picture is resampled until it covers the target, and the rest is cut off. The target has the clip's
    own shape, or with `crop` the one that `crop_aspect` names. A random cut or shape is drawn from the
    clip's content and the sizes, never from the order in which files are found. `target` is the size of a
    bucket that the dataset names, where it names any.

    Raises:
        MediaError: the clip's aspect ratio or size is outside the dataset's limits.
    """
    _check_aspect(dataset, width, height)
    _check_size(dataset, width, height)
    target = target or size_of_aspect(
        _target_aspect(dataset, aspect_key(width, height), media_id),
        dataset.resolution,
        dataset.resolution_type,
        dataset.aspect_bucket_alignment,
    )
    scale = max(target[0] / width, target[1] / height)
    resize = (max(target[0], round(width * scale)), max(target[1], round(height * scale)))
    spare = (resize[0] - target[0], resize[1] - target[1])
    if dataset.crop_style == "center":
        offset = (spare[0] // 2, spare[1] // 2)
    elif dataset.crop_style == "corner":
        offset = (0, 0)
    else:
        drawn = [
            derive_seed(media_id, *resize, *target, f"crop {axis}") % (room + 1)
            for axis, room in zip("xy", spare, strict=True)
        ]
        offset = (drawn[0], drawn[1])
    return Geometry(source=(width, height), resize=resize, crop_xy=offset, target=target)


def _target_aspect(dataset: PictureDataset, own: float, media_id: str) -> float:
    if not dataset.crop or dataset.crop_aspect == "preserve":
        return own
    if dataset.crop_aspect == "square":
        return 1.0
    choices = dataset.crop_aspect_buckets
    if dataset.crop_aspect == "closest":
        return min(choices, key=lambda aspect: (abs(log(aspect / own)), aspect))
    return choices[derive_seed(media_id, *map(str, choices), "crop aspect") % len(choices)]


def is_large_enough(dataset: PictureDataset, width: int, height: int) -> bool:
    """Whether a picture reaches `minimum_image_size`, which is measured as `resolution_type` says."""
    least = dataset.minimum_image_size
    if dataset.resolution_type == "pixel":
        return min(width, height) >= least
    return width * height >= (least * 1e6 if dataset.resolution_type == "area" else least**2)


def _check_size(dataset: PictureDataset, width: int, height: int) -> None:
    if is_large_enough(dataset, width, height):
        return
    least = f"{dataset.minimum_image_size:g}"
    wanted = {
        "pixel": f"{least} pixels at the shorter edge",
        "area": f"{least} megapixels",
        "pixel_area": f"the area of {least}x{least}",
    }[dataset.resolution_type]
    raise MediaError(f"is too small: it is {width}x{height}, and minimum_image_size asks for {wanted}")


def _check_aspect(dataset: PictureDataset, width: int, height: int) -> None:
    aspect = aspect_key(width, height)
    low, high = dataset.minimum_aspect_ratio, dataset.maximum_aspect_ratio
    shape = f"has the aspect ratio {aspect:.2f} ({width}x{height})"
    if low is not None and aspect < low:
        raise MediaError(f"{shape}, and minimum_aspect_ratio is {low:g}")
    if high is not None and aspect > high:
        raise MediaError(f"{shape}, and maximum_aspect_ratio is {high:g}")
