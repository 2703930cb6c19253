"""What tests share: one set of sample clips for the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.media.samples import make_samples


@pytest.fixture(scope="session")
def sample_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sample clips, good and bad. Copy what a test wants to change."""
    directory = tmp_path_factory.mktemp("sample-clips")
    make_samples(directory)
    return directory
