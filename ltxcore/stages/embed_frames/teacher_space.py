"""The teacher's part of CREPA's keys, and which frames of a clip the teacher sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltxcore.config.geometry import GEOMETRY
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import FRAMES
from ltxcore.pipeline.data.keys import Key, frames_shown
from ltxcore.store.snapshot import FrameSelection, Sample


@dataclass(frozen=True)
class TeacherSpace:
    """The teacher's part in the keys of its features."""

    teacher: str
    """Its fingerprint."""
    image_size: int

    @classmethod
    def of(cls, ctx: Context) -> TeacherSpace:
        """The recipe's teacher and image size."""
        return cls(ctx.teacher.fingerprint(), ctx.recipe.crepa.crepa_encoder_image_size)

    def request(self) -> dict[str, Any]:
        """What a request that stands on these features names of them."""
        return {"teacher": self.teacher, "teacher_image_size": self.image_size}

    def key(self, sample: Sample) -> Key:
        """The frames that the teacher is shown, box, size, and the teacher."""
        return Key(
            {
                "kind": "teacher",
                "media": sample.media_id,
                "frames": frames_shown(frames_of_latents(sample.frames)),
                "geometry": sample.geometry.model_dump(mode="json"),
                "teacher": self.teacher,
                "image_size": self.image_size,
                "version": FRAMES.version,
            }
        )

    def keys(self, sample: Sample) -> list[str]:
        """The keys that a sample needs: none for sound alone, which has no frames."""
        return [] if sample.kind == "audio" else [self.key(sample).value]


def frames_of_latents(plan: FrameSelection) -> FrameSelection:
    """The frame for each latent frame: the one shown at the time that the model's positions give the latent.

    Latent 0 is the first frame alone. Latent i > 0 is frames 8i - 7 to 8i, and its position is the middle of
    that stretch, where frame 8i - 3 begins.
    """
    step = GEOMETRY.temporal_factor
    shown = (0, *range(step // 2 + 1, plan.count, step))
    return plan.only(shown)


def grid_of(sample: Sample) -> tuple[int, int, int]:
    """Latent frames, height and width of a sample."""
    return GEOMETRY.grid(sample.frames.count, *sample.geometry.target)


def feature_bytes(sample: Sample, width: int) -> int:
    """Size of a sample's features of `width` values, in bf16; none for sound alone."""
    frames, rows, columns = grid_of(sample)
    return 0 if sample.kind == "audio" else 2 * frames * rows * columns * width
