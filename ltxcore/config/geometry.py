"""How pixels, frames and seconds become latents and tokens: the same in every version of LTX-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AUDIO_SAMPLE_RATE: Final = 16_000
"""Hz that the audio VAE works at."""
AUDIO_LATENTS_PER_SECOND: Final = 25
"""16 000 Hz / hop 160 / 4 mel frames a latent."""


@dataclass(frozen=True)
class LatentGeometry:
    """The causal video VAE's factors: the first frame is a latent of its own (ltx2-facts section 1)."""

    spatial_factor: int = 32
    """Pixels of an edge to one latent, which is one token."""
    temporal_factor: int = 8
    """Frames to one latent after the first: F frames give (F - 1) / 8 + 1."""

    def legal_frames(self, count: int) -> int:
        """The greatest 8n+1 that is at most `count`, and at least 1."""
        return self.whole_latents(max(0, count - 1)) + 1

    def nearest_frames(self, count: int) -> int:
        """The 8n+1 nearest to `count`, and at least 1."""
        return self.legal_frames(max(1, count) + self.temporal_factor // 2)

    def whole_latents(self, frames: int) -> int:
        """`frames` rounded down to whole latents of 8, without the clip's first frame."""
        return frames // self.temporal_factor * self.temporal_factor

    def legal_edge(self, pixels: int) -> int:
        """The greatest multiple of 32 that is at most `pixels`."""
        return pixels // self.spatial_factor * self.spatial_factor

    def nearest_edge(self, pixels: int) -> int:
        """The multiple of 32 nearest to `pixels`, and at least 32."""
        return max(self.spatial_factor, self.legal_edge(pixels + self.spatial_factor // 2))

    def latent_frames(self, frames: int) -> int:
        """Latents of `frames` = 8n + 1."""
        return (frames - 1) // self.temporal_factor + 1

    def frames_of(self, latents: int) -> int:
        """Frames of a number of latents, at least one: 8n + 1."""
        return (latents - 1) * self.temporal_factor + 1

    def grid(self, frames: int, width: int, height: int) -> tuple[int, int, int]:
        """The latents' frames, rows and columns of a clip whose frames and edges are legal."""
        return self.latent_frames(frames), height // self.spatial_factor, width // self.spatial_factor

    def video_tokens(self, frames: int, width: int, height: int) -> int:
        """((F - 1) / 8 + 1)(H / 32)(W / 32)."""
        latents, rows, columns = self.grid(frames, width, height)
        return latents * rows * columns


GEOMETRY: Final = LatentGeometry()
