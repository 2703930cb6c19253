"""The dataset lists of the seed's text load as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.config.dataset_remarks import remarks
from ltxcore.config.datasets import load_datasets

TEXT_SET = """{
    "id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": true,
    "cache_dir": "cache/text/ltxvideo2", "disabled": false
  }"""
VIDEO_SET = """{
    "id": "my-video-dataset", "type": "local", "dataset_type": "video",
    "instance_data_dir": "datasets/videos", "caption_strategy": "textfile", "resolution": 512,
    "video": {"num_frames": 61, "min_frames": 61, "frame_rate": 25, "bucket_strategy": "aspect_ratio"},
    "audio": {"auto_split": true, "sample_rate": 16000, "channels": 1, "duration_interval": 3.0},
    "repeats": 10
  }"""
AUDIO_SET = """{
    "id": "my-audio-dataset", "type": "local", "dataset_type": "audio", "instance_data_dir": "datasets/audio",
    "caption_strategy": "textfile",
    "audio": {"audio_only": true, "sample_rate": 16000, "channels": 1, "min_duration_seconds": 1,
      "max_duration_seconds": 30, "duration_interval": 3.0},
    "repeats": 10
  }"""
NEWER_AUDIO_SET = """{
    "id": "my-audio-dataset", "type": "local", "dataset_type": "audio", "instance_data_dir": "datasets/audio",
    "caption_strategy": "textfile",
    "audio": {"sample_rate": 16000, "channels": 2, "duration_interval": 3.0, "truncation_mode": "beginning"}
  }"""


@pytest.mark.parametrize(
    ("media", "audio_only", "messages"),
    [
        (
            VIDEO_SET,
            False,
            [
                "my-video-dataset: num_frames 61 is used as 57: LTX-2 takes 8n+1 frames",
                "my-video-dataset: audio.channels 1 is used as 2: the audio VAE takes stereo",
                "my-video-dataset: audio.duration_interval has no effect on clips: their sound is cut at the "
                "timestamps of their frames",
            ],
        ),
        (AUDIO_SET, True, ["only sound is trained"]),
        (NEWER_AUDIO_SET, True, ["only sound is trained"]),
        (f"{VIDEO_SET},\n{AUDIO_SET}", False, []),
    ],
)
def test_a_block_of_the_seed_loads_unchanged(
    media: str, audio_only: bool, messages: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for name in ("videos", "audio"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    file = tmp_path / "multidatabackend.json"
    file.write_text(f"[\n  {media},\n  {TEXT_SET}\n]\n")
    datasets = load_datasets(file)
    assert datasets.audio_only is audio_only
    assert all(d.repeats in (0, 10) for d in datasets.media)
    lines = remarks(datasets)
    assert all(any(line.startswith(start) for line in lines) for start in messages)
    assert "without meaning here: text-embeds.cache_dir" in caplog.text
