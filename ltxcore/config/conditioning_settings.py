"""What is given to a training and what it generates: one scheme for every mode.

Each modality is either generated or frozen, that is, given whole. Conditions may give parts of a generated
modality, each with a probability. The default is text to video: both are generated, without conditions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.geometry import GEOMETRY

Mode = Literal["generated", "frozen"]
Modality = Literal["video", "audio"]


def _range(value: Any) -> Any:
    """One number as the range that holds it alone."""
    return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _one(value: Any) -> Any:
    """One number as the list that holds it alone."""
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


FrameRange = Annotated[tuple[int, int], BeforeValidator(_range)]
ShareRange = Annotated[tuple[float, float], BeforeValidator(_range)]


class Condition(Strict):
    """A part of a sample that is given with some probability."""

    probability: float = Field(1.0, gt=0, le=1, description="Probability for each sample at each visit.")


class FirstFrame(Condition):
    """The first frame is given: image to video."""

    type: Literal["first_frame"]


class _Stretch(Condition):
    """Frames at one end of the clip, and the sound under them."""

    frames: FrameRange = Field(
        description="Frames of the clip, one number or [least, most]; sound is given as long as these frames "
        "last."
    )

    @field_validator("frames")
    @classmethod
    def _rises(cls, frames: tuple[int, int]) -> tuple[int, int]:
        if frames[0] > frames[1]:
            raise ValueError(f"is {list(frames)}, which falls; write [least, most]")
        return frames


class Prefix(_Stretch):
    """The clip's beginning is given: extension forwards. Rounded down to 8n+1 frames."""

    type: Literal["prefix"]

    @field_validator("frames")
    @classmethod
    def _a_frame(cls, frames: tuple[int, int]) -> tuple[int, int]:
        if frames[0] < 1:
            raise ValueError(f"is {list(frames)}; a prefix has at least 1 frame")
        return frames


class Suffix(_Stretch):
    """The clip's end is given: extension backwards. Rounded down to 8n frames."""

    type: Literal["suffix"]

    @field_validator("frames")
    @classmethod
    def _a_latent(cls, frames: tuple[int, int]) -> tuple[int, int]:
        if frames[0] < GEOMETRY.temporal_factor:
            raise ValueError(
                f"is {list(frames)}; a suffix has at least {GEOMETRY.temporal_factor} frames, "
                "which are one latent"
            )
        return frames


class SpatialCrop(Condition):
    """A rectangle is given in all frames and its surroundings are generated: outpainting."""

    type: Literal["spatial_crop"]
    area: ShareRange = Field(
        (0.25, 0.5), description="The rectangle's share of the picture, one number or [least, most]."
    )

    @field_validator("area")
    @classmethod
    def _a_share(cls, area: tuple[float, float]) -> tuple[float, float]:
        if not 0 < area[0] <= area[1]:
            raise ValueError(f"is {list(area)}; write shares above 0 as [least, most]")
        if area[1] >= 1:
            raise ValueError(f"is {list(area)}; with all of the picture given nothing is left to learn")
        return area


class Mask(Condition):
    """The black parts of a mask are given and the white parts are generated: inpainting.

    The masks are a conditioning dataset of `conditioning_type: mask`, linked by the clips'
    `conditioning_data`. Sound is given where the mask's frames are entirely black.
    """

    type: Literal["mask"]


class Keyframes(Condition):
    """Single frames are given, anywhere in the clip: interpolation between them.

    Frame 0 is given in its place, as by first_frame. Any other one is encoded by itself, as a picture, and
    its tokens are given beside the video's, at the frame's time. They are drawn for a whole batch, because
    its samples have equally many tokens.
    """

    type: Literal["keyframes"]
    at: Annotated[tuple[int, ...], BeforeValidator(_one)] = Field(
        min_length=1,
        description="Frames of the clip, counted from 0, negative ones from its end: -1 is the last.",
    )

    @field_validator("at")
    @classmethod
    def _each_once(cls, at: tuple[int, ...]) -> tuple[int, ...]:
        twice = sorted({frame for frame in at if at.count(frame) > 1})
        if twice:
            raise ValueError(f"is {list(at)}, which names frame {twice[0]} twice; keep one of them")
        return at

    def positions(self, frames: int) -> tuple[int, ...]:
        """The given frames of a clip of this length, in order; frames beyond its end are left out."""
        counted = (frame + frames if frame < 0 else frame for frame in self.at)
        return tuple(sorted({frame for frame in counted if 0 <= frame < frames}))

    def beside(self, frames: int) -> tuple[int, ...]:
        """Those of them that are given beside the video: all but frame 0."""
        return tuple(frame for frame in self.positions(frames) if frame)


class Reference(Condition):
    """Another video is given beside the generated one: IC-LoRA.

    The references are a conditioning dataset of `conditioning_type: reference`, linked by the clips'
    `conditioning_data`. They are drawn for a whole batch, because its samples have equally many tokens.
    """

    type: Literal["reference"]


class SoundReference(Condition):
    """Another sound is given beside the generated one, such as the voice that shall speak: IC-LoRA.

    The sounds are a conditioning dataset of `conditioning_type: reference_audio`, linked by the clips'
    `conditioning_data`. They are drawn for a whole batch, together with references of the pictures.
    """

    type: Literal["reference"]
    position: Literal["before", "aligned"] = Field(
        "before",
        description="Where it is in time. before: ends one latent before the clip begins, as ID-LoRA and "
        "ComfyUI's LTXVReferenceAudio have it. aligned: begins with the clip, as Lightricks' trainer has it.",
    )


VideoCondition = Annotated[
    FirstFrame | Prefix | Suffix | SpatialCrop | Mask | Keyframes | Reference, Field(discriminator="type")
]
AudioCondition = Annotated[Prefix | Suffix | Mask | SoundReference, Field(discriminator="type")]


OneCondition = FirstFrame | Prefix | Suffix | SpatialCrop | Mask | Keyframes | Reference | SoundReference


class ModalityConditioning(Strict):
    """What is given of a modality."""

    mode: Mode = Field(
        "generated", description="generated, or frozen: given whole, at time 0, without a loss."
    )
    conditions: tuple[OneCondition, ...] = Field(
        (), description="Each of its own type; drawn apart from the others."
    )

    @property
    def frozen(self) -> bool:
        """Whether the modality is given whole and carries no loss."""
        return self.mode == "frozen"

    def of_type(self, name: str) -> OneCondition | None:
        """The condition of a type, if there is one."""
        return next((condition for condition in self.conditions if condition.type == name), None)

    @model_validator(mode="after")
    def _conditions_have_a_place(self) -> ModalityConditioning:
        types = [condition.type for condition in self.conditions]
        twice = sorted({name for name in types if types.count(name) > 1})
        if twice:
            raise ValueError(f"conditions holds {', '.join(twice)} twice; keep one of each type")
        if self.frozen and types:
            raise ValueError(
                f"conditions holds {', '.join(types)}, but mode is frozen: all of it is given already; leave "
                "conditions out, or write mode: generated"
            )
        return self


class VideoConditioning(ModalityConditioning):
    """What is given of the pictures."""

    conditions: tuple[VideoCondition, ...] = Field(
        (), description="Each of its own type; drawn apart from the others."
    )

    @property
    def keyframes(self) -> Keyframes | None:
        """The condition that gives single frames, if there is one."""
        return next((condition for condition in self.conditions if isinstance(condition, Keyframes)), None)


class AudioConditioning(ModalityConditioning):
    """What is given of the sound."""

    conditions: tuple[AudioCondition, ...] = Field(
        (), description="Each of its own type; drawn apart from the others."
    )


class ConditioningSettings(Strict):
    """What is given and what is generated, for each modality.

    Conditions of one type in both modalities are drawn together. With equal probabilities and frames, the
    same stretch of pictures and sound is given.
    """

    video: VideoConditioning = Field(default_factory=VideoConditioning)
    audio: AudioConditioning = Field(default_factory=AudioConditioning)

    @model_validator(mode="after")
    def _something_is_made(self) -> ConditioningSettings:
        if self.video.frozen and self.audio.frozen:
            raise ValueError(
                "video.mode and audio.mode are both frozen, so nothing is left to learn; write mode: "
                "generated for one of them"
            )
        return self

    @property
    def sound_reference(self) -> SoundReference | None:
        """The condition that gives another sound, if there is one."""
        return next((c for c in self.audio.conditions if isinstance(c, SoundReference)), None)

    @property
    def frozen(self) -> Modality | None:
        """The modality that is given whole, if one is."""
        if self.video.frozen:
            return "video"
        return "audio" if self.audio.frozen else None

    @property
    def per_token(self) -> bool:
        """Whether some video tokens may be given while others are generated."""
        return bool(self.video.conditions)

    def certain(self) -> ConditioningSettings:
        """The same conditions with probability 1."""
        data = self.model_dump()
        for modality in ("video", "audio"):
            for condition in data[modality]["conditions"]:
                condition["probability"] = 1.0
        return ConditioningSettings.model_validate(data)

    def with_first_frame(self, probability: float) -> ConditioningSettings:
        """These settings with the seed's `ltx2_first_frame_conditioning_probability` as a condition.

        Raises:
            ValueError: a first_frame condition is there already, or the pictures are frozen.
        """
        key = f"training.ltx2_first_frame_conditioning_probability {probability:g}"
        if not probability:
            return self
        if self.video.of_type("first_frame") is not None:
            raise ValueError(
                f"{key} and conditioning.video.conditions both give a first_frame condition; keep one of them"
            )
        if self.video.frozen:
            raise ValueError(
                f"{key} has no meaning where conditioning.video.mode is frozen: all frames are given already"
            )
        first = FirstFrame(type="first_frame", probability=probability)
        video = self.video.model_copy(update={"conditions": (first, *self.video.conditions)})
        return self.model_copy(update={"video": video})
