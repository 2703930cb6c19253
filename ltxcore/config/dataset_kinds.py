"""The entries of a dataset file: video, image, audio and conditioning datasets, and the caption cache."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.bucket_list import Bucket, names_frames, read_bucket
from ltxcore.config.caption_shuffle_settings import CaptionShuffle
from ltxcore.config.dataset_blocks import AudioSettings, ParquetSettings, VideoSettings
from ltxcore.config.dataset_values import Local, one_or_many
from ltxcore.config.geometry import GEOMETRY

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
CaptionStrategy = Literal["textfile", "filename", "instanceprompt", "instance_prompt", "parquet"]
ResolutionType = Literal["pixel", "area", "pixel_area"]
MOST_MEGAPIXELS = 64
UNIQUE = "Names the dataset; each has its own."
LOCAL_ONLY = "Files are read from a directory here."
DISABLED = "Leave it out."
KIND = "What the files are."
FOLLOWED = "Follow links that lead out of the datasets' directories. Otherwise what is behind is rejected."
TOO_LARGE = "Larger pictures and frames are rejected from their header."
MOST_MEGAPIXELS_READ = 100.0
MOST_MEGAPIXELS_ALLOWED = 268.0
"""A picture of 16384x16384 takes 0.8 GiB while it is read; a larger one is a mistake or an attack."""
NOT_USED = "Accepted and not used: the workspace holds the store."


class MediaDataset(Strict):
    """Keys of every dataset of files with captions."""

    id: Id = Field(description=UNIQUE)
    type: Local = Field("local", description=LOCAL_ONLY)
    instance_data_dir: str = Field(min_length=1, description="Relative to the dataset file.")
    caption_strategy: CaptionStrategy = Field(
        "textfile",
        description="textfile: beside the file, `clip.txt` or `clip.mp4.txt`, one caption a line. filename: "
        "the name, its underscores as spaces. instanceprompt: `instance_prompt` for all. parquet: a table.",
    )
    disable_multiline_split: bool = Field(False, description="textfile: the whole file is one caption.")
    instance_prompt: str | None = Field(None, description="The trigger words of what is trained.")
    prepend_instance_prompt: bool = Field(False, description="Put them before every caption.")
    parquet: ParquetSettings | None = None
    caption_filter_list: tuple[str, ...] = Field(
        (),
        description="Regular expressions to take out of captions, or `s/search/replacement/`; or a .txt or "
        ".json file of them.",
    )
    caption_shuffle: CaptionShuffle | None = None
    caption_weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (),
        description="How often each caption of a clip is drawn, relative to the others, in the order of its "
        "lines; a line beyond the list weighs 1. Default: all alike.",
    )
    repeats: int = Field(0, ge=0, description="Extra passes: n gives n + 1 visits an epoch.")
    probability: float = Field(1.0, gt=0, le=1, description="The share of visits that are kept in an epoch.")
    disabled: bool = Field(False, description=DISABLED)
    is_regularisation_data: bool = Field(
        False,
        description=(
            "Regularisation data: its targets are the base model's own predictions, so that "
            "nothing changes there."
        ),
    )
    follow_links: bool = Field(False, description=FOLLOWED)
    max_caption_kib: PositiveInt = Field(64, le=1024, description="KiB; a longer caption file is rejected.")
    cache_dir: str | None = Field(None, description=NOT_USED)
    cache_dir_vae: str | None = Field(None, description=NOT_USED)

    @field_validator("caption_filter_list", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return () if value is None else one_or_many(value)

    def fingerprint_data(self) -> dict[str, Any]:
        """Without orders and weights of captions where there are none, as before there were such keys."""
        unset = {key for key in ("caption_shuffle", "caption_weights") if not getattr(self, key)}
        return {key: value for key, value in super().fingerprint_data().items() if key not in unset}

    @property
    def trigger(self) -> str:
        """The instance prompt, if captions are made from it."""
        return (self.instance_prompt or "").strip() if self._wants_instance_prompt else ""

    @property
    def _wants_instance_prompt(self) -> bool:
        of_it = self.caption_strategy in ("instanceprompt", "instance_prompt")
        return of_it or self.prepend_instance_prompt

    @model_validator(mode="after")
    def _captions_given(self) -> MediaDataset:
        if self._wants_instance_prompt and not (self.instance_prompt or "").strip():
            raise ValueError(f"caption_strategy {self.caption_strategy} needs a text in `instance_prompt`")
        if self.caption_strategy == "parquet" and self.parquet is None:
            raise ValueError(
                "caption_strategy parquet needs `parquet: {path: …, filename_column: …, caption_column: …}`"
            )
        if self.caption_weights and (
            self.caption_strategy not in ("textfile", "parquet") or self.disable_multiline_split
        ):
            raise ValueError(
                "caption_weights weighs the captions of a clip, and each has one alone here; remove it, or "
                "write caption_strategy textfile with a caption a line"
            )
        return self


class PictureDataset(MediaDataset):
    """Keys for the sizes of pictures."""

    resolution: float = Field(
        512, gt=0, description="An edge in pixels, or megapixels where the type is area."
    )
    resolution_type: ResolutionType = Field(
        "pixel_area",
        description="pixel: `resolution` is the shorter edge; area: megapixels; pixel_area: the edge of a "
        "square of the same area.",
    )
    aspect_bucket_alignment: Literal[32, 64] = Field(
        32, description="Edges of samples are multiples of this."
    )
    max_megapixels: float = Field(
        MOST_MEGAPIXELS_READ, gt=0, le=MOST_MEGAPIXELS_ALLOWED, description=TOO_LARGE
    )
    crop: bool = Field(False, description="Cut to `crop_aspect`; else only what the alignment leaves over.")
    crop_style: Literal["center", "random", "corner"] = Field(
        "center", description="Which part is kept; random is drawn from the clip's content."
    )
    crop_aspect: Literal["square", "preserve", "closest", "random"] = Field(
        "square", description="The shape that `crop` cuts to."
    )
    crop_aspect_buckets: tuple[float, ...] = Field((), description="For crop_aspect closest and random.")
    minimum_aspect_ratio: float | None = Field(
        None, gt=0, description="Width / height; narrower clips are dropped."
    )
    maximum_aspect_ratio: float | None = Field(
        None, gt=0, description="Width / height; wider clips are dropped."
    )
    minimum_image_size: float = Field(
        0,
        ge=0,
        description="Smaller pictures are dropped; in the units of resolution_type. 0: none are dropped.",
    )
    buckets: tuple[str, ...] = Field(
        (),
        description=(
            "The only allowed sizes and lengths, as WxHxF (WxH for pictures), instead of "
            "resolution and num_frames. `ltx2 buckets` proposes some."
        ),
    )

    @field_validator("buckets", mode="before")
    @classmethod
    def _listed_buckets(cls, value: Any) -> Any:
        return () if value is None else one_or_many(value)

    @field_validator("buckets")
    @classmethod
    def _legal(cls, written: tuple[str, ...]) -> tuple[str, ...]:
        found = [read_bucket(text) for text in written]
        for text, bucket in zip(written, found, strict=True):
            if found.count(bucket) > 1:
                raise ValueError(f"{text} is given twice; keep one of them")
        return tuple(bucket.written for bucket in found)

    @property
    def fixed_buckets(self) -> tuple[Bucket, ...]:
        """The buckets that the dataset lists; empty if they follow from the clips."""
        return tuple(read_bucket(text) for text in self.buckets)

    conditioning_data: tuple[str, ...] = Field(
        (),
        description="Conditioning datasets that hold the clips' references, masks or loss masks, by stem.",
    )

    @field_validator("conditioning_data", mode="before")
    @classmethod
    def _listed_names(cls, value: Any) -> Any:
        return () if value is None else one_or_many(value)

    @model_validator(mode="after")
    def _units(self) -> PictureDataset:
        size = f"resolution {self.resolution:g}"
        if self.resolution_type == "area" and self.resolution > MOST_MEGAPIXELS and not self.buckets:
            raise ValueError(
                f"{size} is in megapixels with resolution_type area; write resolution_type pixel_area for an "
                "edge, or e.g. resolution 0.25"
            )
        if self.resolution_type != "area" and self.resolution < GEOMETRY.spatial_factor and not self.buckets:
            raise ValueError(
                f"{size} is an edge in pixels with resolution_type {self.resolution_type}; write "
                "resolution_type area for megapixels, or e.g. resolution 512"
            )
        return self

    @model_validator(mode="after")
    def _shapes(self) -> PictureDataset:
        low, high = self.minimum_aspect_ratio, self.maximum_aspect_ratio
        if low and high and low > high:
            raise ValueError(f"minimum_aspect_ratio {low} is more than maximum_aspect_ratio {high}")
        if self.crop and self.crop_aspect in ("closest", "random") and not self.crop_aspect_buckets:
            raise ValueError(
                f"crop_aspect {self.crop_aspect} needs `crop_aspect_buckets`, e.g. [1.0, 0.75, 1.33]"
            )
        if any(bucket <= 0 for bucket in self.crop_aspect_buckets):
            raise ValueError("crop_aspect_buckets must be width / height, more than 0")
        return self


class VideoDataset(PictureDataset):
    """A directory of clips with captions."""

    dataset_type: Literal["video"] = Field(description=KIND)
    video: VideoSettings = Field(default_factory=VideoSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    s2v_datasets: tuple[str, ...] = Field(
        (), description="Audio datasets that hold the clips' sound, matched by stem; `<id>_audio` is its own."
    )

    @field_validator("buckets", mode="before")
    @classmethod
    def _with_frames(cls, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and not names_frames(text) and read_bucket(text).frames == 1:
                raise ValueError(f"{text} names no frames; write {text}x49, or {text}x1 for single frames")
        return value

    @field_validator("s2v_datasets", mode="before")
    @classmethod
    def _listed_links(cls, value: Any) -> Any:
        return () if value is None else one_or_many(value)

    @model_validator(mode="after")
    def _long_enough(self) -> VideoDataset:
        video = self.video
        by_count = video.bucket_strategy == "aspect_ratio" and not self.buckets
        if by_count and video.shortest > (video.max_frames or video.shortest):
            raise ValueError(
                f"video.max_frames {video.max_frames} is less than the {video.shortest} frames needed; "
                "raise it, or lower num_frames"
            )
        return self

    @property
    def audio_set_id(self) -> str:
        """The id of the set of sounds that is split from the clips."""
        return f"{self.id}_audio"

    @property
    def linked(self) -> tuple[str, ...]:
        """Ids of the audio datasets with the clips' sound, in the order of search."""
        return tuple(name for name in self.s2v_datasets if name != self.audio_set_id)

    @property
    def takes_own_sound(self) -> bool:
        """Whether the clips' own sound is used; if other datasets have the sound, only on request."""
        if not self.linked:
            return self.audio.auto_split
        asked = "auto_split" in self.audio.model_fields_set and self.audio.auto_split
        return asked or self.audio_set_id in self.s2v_datasets

    @property
    def wants_sound(self) -> bool:
        """Whether its samples have sound: that of the clips, or that of a linked audio dataset."""
        return self.takes_own_sound or bool(self.linked)

    @property
    def demands_sound(self) -> bool:
        """Whether the dataset asks for sound explicitly, so that clips without any sound are a mistake."""
        written = "auto_split" in self.audio.model_fields_set or bool(self.s2v_datasets)
        return self.wants_sound and written and not self.audio.allow_zero_audio


class ImageDataset(PictureDataset):
    """A directory of pictures with captions: clips of one frame."""

    dataset_type: Literal["image"] = Field(description=KIND)

    @field_validator("buckets")
    @classmethod
    def _one_frame(cls, written: tuple[str, ...]) -> tuple[str, ...]:
        for bucket in map(read_bucket, written):
            if bucket.frames != 1:
                raise ValueError(
                    f"{bucket.written} has {bucket.frames} frames, and a picture is one; write "
                    f"{bucket.width}x{bucket.height}"
                )
        return written


class AudioDataset(MediaDataset):
    """A directory of sounds: linked to clips by `s2v_datasets`, or trained on alone."""

    dataset_type: Literal["audio"] = Field(description=KIND)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    conditioning_data: tuple[str, ...] = Field(
        (),
        description="The conditioning dataset of reference_audio that is given beside sounds trained alone.",
    )

    @field_validator("conditioning_data", mode="before")
    @classmethod
    def _listed_names(cls, value: Any) -> Any:
        return () if value is None else one_or_many(value)

    def fingerprint_data(self) -> dict[str, Any]:
        """Without what no sound had before there were voices to give."""
        unset = set() if self.conditioning_data else {"conditioning_data"}
        return {key: value for key, value in super().fingerprint_data().items() if key not in unset}


class ConditioningDataset(Strict):
    """A directory of videos or pictures that belong to clips of other datasets, by their stems.

    A reference is given beside the clip, and a reference_audio beside its sound (IC-LoRA). A mask is white
    where the clip is generated and black where it is given. A loss mask is white where the clip counts in the
    loss. Videos and pictures begin with the clip's first frame and have its picture's shape.
    """

    id: Id = Field(description=UNIQUE)
    type: Local = Field("local", description=LOCAL_ONLY)
    dataset_type: Literal["conditioning"] = Field(description=KIND)
    conditioning_type: Literal["reference", "reference_audio", "mask", "loss_mask"] = Field(
        description="What the files are to the clips of their stem: a video or a sound that is given beside "
        "them, what is given of them (black), or what of them counts in the loss (white)."
    )
    instance_data_dir: str = Field(min_length=1, description="Relative to the dataset file.")
    reference_downscale_factor: Literal[1, 2, 4] = Field(
        1, description="How many times smaller than the clips references are used."
    )
    reference_temporal_scale_factor: Literal[1, 2, 4] = Field(
        1, description="How many times fewer frames a second than the clips references are used with."
    )
    reference_seconds: float = Field(
        5.0,
        ge=1,
        description="Of a reference_audio: so many seconds of its beginning are used; of a shorter one, its "
        "whole seconds.",
    )
    disabled: bool = Field(False, description=DISABLED)
    follow_links: bool = Field(False, description=FOLLOWED)
    max_megapixels: float = Field(
        MOST_MEGAPIXELS_READ, gt=0, le=MOST_MEGAPIXELS_ALLOWED, description=TOO_LARGE
    )
    cache_dir: str | None = Field(None, description=NOT_USED)
    cache_dir_vae: str | None = Field(None, description=NOT_USED)

    @property
    def holds_sounds(self) -> bool:
        """Whether its files are sounds, and no pictures."""
        return self.conditioning_type == "reference_audio"

    def fingerprint_data(self) -> dict[str, Any]:
        """Without what only sounds have where the files are none, as before there were such."""
        unset = set() if self.holds_sounds else {"reference_seconds"}
        return {key: value for key, value in super().fingerprint_data().items() if key not in unset}

    @model_validator(mode="after")
    def _seconds_are_of_sounds(self) -> ConditioningDataset:
        if "reference_seconds" in self.model_fields_set and not self.holds_sounds:
            raise ValueError(
                f"reference_seconds has no meaning for conditioning_type {self.conditioning_type}; remove "
                "it, or write conditioning_type: reference_audio"
            )
        return self

    @model_validator(mode="after")
    def _factors_are_of_references(self) -> ConditioningDataset:
        for key in ("reference_downscale_factor", "reference_temporal_scale_factor"):
            if self.conditioning_type != "reference" and getattr(self, key) != 1:
                raise ValueError(
                    f"{key} has no meaning for conditioning_type {self.conditioning_type}: masks have the "
                    "clips' size and length, and a sound has neither"
                )
        return self


class TextEmbedsDataset(Strict):
    """SimpleTuner's entry for the caption cache. It may be left out, because the store keys captions by
    content."""

    id: Id = Field(description=UNIQUE)
    type: Local = Field("local", description=LOCAL_ONLY)
    dataset_type: Literal["text_embeds"] = Field(description=KIND)
    default: bool = Field(False, description="Accepted and not used: there is one store of captions.")
    cache_dir: str | None = Field(None, description=NOT_USED)
    caption_filter_list: tuple[str, ...] = Field((), description="As in a dataset, for all datasets.")
    disabled: bool = Field(False, description=DISABLED)

    @field_validator("caption_filter_list", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return () if value is None else one_or_many(value)


Media = VideoDataset | ImageDataset | AudioDataset
Entry = VideoDataset | ImageDataset | AudioDataset | ConditioningDataset | TextEmbedsDataset
KINDS: dict[str, type[Entry]] = {
    "video": VideoDataset,
    "image": ImageDataset,
    "audio": AudioDataset,
    "conditioning": ConditioningDataset,
    "text_embeds": TextEmbedsDataset,
}
