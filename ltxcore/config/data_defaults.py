"""Defaults for datasets that leave keys out; a config.json may give them once for all datasets."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator

from ltxcore.config.base import Strict
from ltxcore.config.bucket_list import names_frames, read_bucket

REFERENCE_FACTORS: Final = ("reference_downscale_factor", "reference_temporal_scale_factor")


class DataDefaults(Strict):
    """The `data` part of a recipe. A dataset's own value always wins."""

    resolution: float | None = Field(None, gt=0, description="For datasets without a resolution.")
    resolution_type: Literal["pixel", "area", "pixel_area"] | None = Field(
        None, description="For datasets without a resolution_type."
    )
    minimum_image_size: float | None = Field(
        None, ge=0, description="For datasets without a minimum_image_size."
    )
    frame_rate: float | None = Field(
        None, gt=0, le=240, description="For video datasets without video.frame_rate."
    )
    reference_downscale_factor: Literal[1, 2, 4] | None = Field(
        None, description="For datasets of references without a reference_downscale_factor."
    )
    reference_temporal_scale_factor: Literal[1, 2, 4] | None = Field(
        None, description="For datasets of references without a reference_temporal_scale_factor."
    )
    buckets: tuple[str, ...] = Field(
        (),
        description="For datasets with neither buckets nor a resolution: WxHxF for clips, WxH for pictures.",
    )

    @field_validator("buckets")
    @classmethod
    def _legal(cls, written: tuple[str, ...]) -> tuple[str, ...]:
        for text in written:
            read_bucket(text)
        return written

    def fill(self, item: Any) -> Any:
        """One entry of a dataset file, as plain data, with these defaults filled in."""
        if not isinstance(item, dict):
            return item
        if item.get("dataset_type") == "conditioning" and item.get("conditioning_type") == "reference":
            factors = {name: getattr(self, name) for name in REFERENCE_FACTORS}
            return {**{name: value for name, value in factors.items() if value is not None}, **item}
        if item.get("dataset_type") not in ("video", "image"):
            return item
        picture = {
            "resolution": self.resolution,
            "resolution_type": self.resolution_type,
            "minimum_image_size": self.minimum_image_size,
        }
        filled = {**{key: value for key, value in picture.items() if value is not None}, **item}
        of_clips = item["dataset_type"] == "video"
        buckets = [text for text in self.buckets if names_frames(text) == of_clips]
        if buckets and "resolution" not in item:
            filled.setdefault("buckets", buckets)
        video = item.get("video", {})
        if self.frame_rate is not None and item["dataset_type"] == "video" and isinstance(video, dict):
            filled["video"] = {"frame_rate": self.frame_rate, **video}
        return filled
