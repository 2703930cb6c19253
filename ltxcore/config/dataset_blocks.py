"""The blocks inside entries of the dataset file: pictures of clips, sound, and tables of captions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.dataset_values import auto_or_off, number, vae_rate
from ltxcore.config.geometry import AUDIO_SAMPLE_RATE

TruncationMode = Literal["beginning", "end", "random"]
MEASURED = "Accepted and not used: probe-media measures every file."


class VideoSettings(Strict):
    """The `video` block: frames, and how clips are grouped."""

    track: PositiveInt | None = Field(
        None, description="The number of the picture track. Default: what a player plays."
    )
    num_frames: PositiveInt = Field(125, description="Frames of a sample; rounded down to 8n+1.")
    min_frames: PositiveInt | None = Field(
        None, description="Clips with fewer frames at frame_rate are dropped. Default: num_frames."
    )
    max_frames: PositiveInt | None = Field(None, description="Clips with more frames are dropped.")
    frame_rate: float = Field(25.0, gt=0, le=240, description="Frames a second of every sample.")
    bucket_strategy: Literal["aspect_ratio", "resolution_frames"] = Field(
        "aspect_ratio",
        description="aspect_ratio: every clip gives num_frames. resolution_frames: its own length, floored "
        "to frame_interval and to 8n+1.",
    )
    frame_interval: PositiveInt = Field(1, description="resolution_frames: lengths are floored to this.")
    hdr: Literal["tone_map", "reject"] = Field(
        "tone_map", description="HDR clips (PQ, HLG): tone_map: to SDR, white at 203 nits. reject: dropped."
    )
    deinterlace: Annotated[Literal["auto", "off"], BeforeValidator(auto_or_off)] = Field(
        "auto", description="auto: interlaced frames are deinterlaced. off: fields are kept."
    )

    @model_validator(mode="after")
    def _ordered(self) -> VideoSettings:
        if self.min_frames and self.max_frames and self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is more than max_frames {self.max_frames}")
        return self

    @property
    def shortest(self) -> int:
        """The fewest frames a clip may have."""
        return self.num_frames if self.min_frames is None else self.min_frames


class AudioSettings(Strict):
    """The `audio` block of a video or audio dataset."""

    track: PositiveInt | None = Field(
        None,
        description="The number of the sound track. Default: what a player plays, unless it is silent.",
    )
    auto_split: bool = Field(True, description="Video sets: take the sound of the clips for training.")
    sample_rate: Annotated[int, BeforeValidator(vae_rate)] = Field(
        AUDIO_SAMPLE_RATE, description="The sample rate, which is that of the audio VAE."
    )
    channels: Annotated[Literal[1, 2], BeforeValidator(number)] = Field(
        2, description="The audio VAE always gets stereo; mono is duplicated."
    )
    duration_interval: float = Field(
        3.0,
        gt=0,
        description="Seconds. Sound without pictures is cut to a multiple of this; shorter sound keeps its "
        "length. A clip's sound has its frames' length.",
    )
    truncation_mode: TruncationMode = Field(
        "beginning",
        description="The part of a too long sound file that is kept; random is drawn from its content.",
    )
    min_duration_seconds: float | None = Field(None, ge=0, description="Shorter sound is dropped.")
    max_duration_seconds: float | None = Field(None, gt=0, description="Longer sound is dropped.")
    audio_only: bool = Field(False, description="Train on the sound alone, without pictures.")
    allow_zero_audio: bool = Field(
        False,
        description="Video sets: a clip without sound is trained as a silent one. Otherwise its sound takes "
        "no part in the loss.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> AudioSettings:
        low, high = self.min_duration_seconds, self.max_duration_seconds
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_duration_seconds {low:g} is more than max_duration_seconds {high:g}")
        return self


class ParquetSettings(Strict):
    """Where the captions of `caption_strategy: parquet` are."""

    path: str = Field(
        min_length=1, description="Parquet or JSON lines; relative to the dataset file or instance_data_dir."
    )
    filename_column: str = Field(description="Relative path, name, or name without extension of the clip.")
    caption_column: str = Field(description="A text, or a list of texts of which each visit draws one.")
    fallback_caption_column: str | None = Field(None, description="Used where the caption is empty.")
    identifier_includes_extension: bool | None = Field(
        None, description="Whether filename_column holds extensions. Default: both are looked for."
    )
    width_column: str | None = Field(None, description=MEASURED)
    height_column: str | None = Field(None, description=MEASURED)
    bbox_column: str | None = Field(None, description="Accepted and not used: no loss looks at boxes.")
