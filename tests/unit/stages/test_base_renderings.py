"""Renderings of the base that are kept: what is read is what was rendered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ltxcore.stages.render_validation.base_renderings import read_rendering, write_rendering
from ltxcore.validation.rendering_settings import Rendering


def rendering(frames: np.ndarray, audio: np.ndarray) -> Rendering:
    return Rendering("one", frames, audio, fps=16.0, sample_rate=24_000, seed=7, render_s=0.5)


def test_pictures_and_sound_come_back_whatever_their_memory_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    # As the renderer has them: views of [F, 3, H, W] and [N, 2].
    frames = rng.integers(0, 256, (5, 3, 8, 6), np.uint8).transpose(0, 2, 3, 1)
    audio = rng.random((40, 2), np.float32).T
    assert not frames.flags.c_contiguous
    assert not audio.flags.c_contiguous
    write_rendering(tmp_path / "r.safetensors", rendering(frames, audio))
    found = read_rendering(tmp_path / "r.safetensors")
    assert found is not None
    np.testing.assert_array_equal(found.frames, frames)
    np.testing.assert_array_equal(found.audio, audio)
    assert (found.name, found.fps, found.sample_rate, found.seed, found.render_s) == (
        "one",
        16,
        24_000,
        7,
        0.5,
    )


def test_a_broken_file_is_said_and_rendered_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "r.safetensors"
    assert read_rendering(file) is None
    write_rendering(file, rendering(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((2, 9), np.float32)))
    file.write_bytes(file.read_bytes()[:60])
    assert read_rendering(file) is None
    assert "rendered again" in caplog.text
