"""What the examples share: where they write, and clips to work on."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import yaml

from ltxcore.media.samples import make_samples

ROOT = Path(__file__).parents[1]


def output_directory() -> Path:
    """The directory that the first argument names, or `examples/output`. Paths count from the repository."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "examples/output").resolve()
    output.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    return output


def demo_datasets(output: Path, *clips: str) -> Path:
    """A dataset file for demo clips, which are made where they are not there.

    Args:
        output: its directory.
        clips: the names of the files to take, without their endings. None given: all of them.
    """
    folder = output / "clips"
    if not folder.is_dir():
        make_samples(folder)
    if clips:
        chosen = output / "-".join(clips)
        chosen.mkdir(exist_ok=True)
        for file in (file for clip in clips for file in folder.glob(f"{clip}.*")):
            shutil.copy2(file, chosen)
        folder = chosen
    entries = [
        {
            "id": "demo",
            "dataset_type": "video",
            "instance_data_dir": str(folder),
            "resolution": 64,
            "resolution_type": "pixel",
            "video": {"num_frames": 17},
        },
        {"id": "text", "dataset_type": "text_embeds"},
    ]
    file = output / "datasets.yaml"
    file.write_text(yaml.safe_dump(entries, sort_keys=False))
    return file
