"""A sample as the batch schedule sees it. Imports no torch: schedules are checked before anything loads."""

from __future__ import annotations

from dataclasses import dataclass

Group = tuple[str, float, bool, bool, bool]


@dataclass(frozen=True)
class Entry:
    """A sample as the batch schedule sees it. Samples of equal `group` may share a batch."""

    sample_id: str
    bucket: str
    """`WxH@F`: equal buckets have latents of equal shape, and references of equal shape or none."""
    fps: float
    has_audio: bool
    captions: int
    visits: int = 1
    """Visits in an epoch, before thinning."""
    probability: float = 1.0
    """The share of visits that is kept in an epoch."""
    has_video: bool = True
    """False for sound that is trained alone."""

    caption_weights: tuple[float, ...] = ()
    """How often each caption is drawn, their sum 1; empty where all are drawn alike."""
    regularisation: bool = False
    """Its target is what the model says without the adapter."""

    @property
    def group(self) -> Group:
        """Shape, frame rate (so sound has one length), whether there is sound and picture, and the target.

        Silent clips stay apart from those with sound, and sound alone from clips: a batch that has one
        modality only is computed with both isolated, so that noise in place of the other never reaches it.
        """
        return self.bucket, self.fps, self.has_audio, self.has_video, self.regularisation

    @property
    def description(self) -> str:
        """The group in words."""
        kinds = ("with sound" if self.has_audio else "silent") if self.has_video else "sound alone"
        kept = ", regularisation" if self.regularisation else ""
        return f"{self.bucket} ({self.fps:g} fps, {kinds}{kept})"
