"""What CREPA's teacher contributes to keys, and which frames of a clip it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltxcore.models.versions import GEOMETRY
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES
from ltxcore.stages.keys import Key
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.snapshot import FramePlan, Sample


@dataclass(frozen=True)
class TeacherSpace:
    """The teacher's part in the keys of its features."""

    teacher: str
    """Its fingerprint."""
    image_size: int

    @classmethod
    def of(cls, ctx: Context) -> TeacherSpace:
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
                "frames": fingerprint(list(frames_of_latents(sample.frames).indices)),
                "geometry": sample.geometry.model_dump(mode="json"),
                "teacher": self.teacher,
                "image_size": self.image_size,
                "version": FRAMES.version,
            }
        )

    def keys(self, sample: Sample) -> list[str]:
        """The keys that a sample needs: none for sound alone, which has no frames."""
        return [] if sample.kind == "audio" else [self.key(sample).value]


def frames_of_latents(plan: FramePlan) -> FramePlan:
    """The frame for each latent frame: the one shown at the time that the model's positions give the latent.

    Latent 0 is the first frame alone. Latent i > 0 is frames 8i - 7 to 8i, and its position is the middle of
    that stretch, where frame 8i - 3 begins.
    """
    step = GEOMETRY.temporal_factor
    shown = (0, *range(step // 2 + 1, plan.count, step))
    return plan.model_copy(update={"indices": tuple(plan.indices[k] for k in shown)})


def grid_of(sample: Sample) -> tuple[int, int, int]:
    """Latent frames, height and width of a sample."""
    width, height = sample.geometry.target
    edge = GEOMETRY.spatial_factor
    return (sample.frames.count - 1) // GEOMETRY.temporal_factor + 1, height // edge, width // edge


def feature_bytes(sample: Sample, width: int) -> int:
    """Size of a sample's features of `width` values, in bf16; none for sound alone."""
    frames, rows, columns = grid_of(sample)
    return 0 if sample.kind == "audio" else 2 * frames * rows * columns * width
