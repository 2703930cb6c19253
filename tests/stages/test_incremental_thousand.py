"""One of a thousand clips is replaced: one video and one audio encode, no text. Every count is at full scale.

The thousand files are copies of one tiny clip with other bytes at their end. What is made of the first
thousand is made once and handed out again, because it is the same for all of them; hashes, keys, rows and
index entries are each clip's own. From the replacement on nothing is replaced by a stand-in.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.recipe import Recipe
from ltxcore.jobs.explain.explain import explain_clip
from ltxcore.media import audio, decode
from ltxcore.media.probe import probe
from ltxcore.models.vae import audio_latents, video_latents
from ltxcore.stages.encode_latents import vae_backoff
from ltxcore.stages.probe_media.memo import PROBES
from tests.stages.conftest import Bench
from tests.unit.media.clips import ffmpeg

CLIPS = 1000
DATASETS = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 9}
- {id: text, dataset_type: text_embeds}
"""


def free_box(number: int) -> bytes:
    """Bytes at the end of an MP4 that players pass over."""
    return (12).to_bytes(4, "big") + b"free" + f"{number:04d}".encode()


def once(work: Callable[..., Any]) -> Callable[..., Any]:
    """The first result of a function, whatever it is asked for afterwards."""
    results: list[Any] = []

    def first(*arguments: Any) -> Any:
        if not results:
            results.append(work(*arguments))
        return results[0]

    return first


def prepare(bench: Bench) -> None:
    """Everything that training needs of a thousand clips, with one decode and one encode for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROBES, "video", once(probe))
        patch.setattr(decode, "decode_frames", once(decode.decode_frames))
        patch.setattr(audio, "decode_audio", once(audio.decode_audio))
        encode_one = once(lambda vae, clip: video_latents.encode_videos(vae, [clip])[0])
        patch.setattr(
            vae_backoff, "encode_videos", lambda vae, clips: [encode_one(vae, clip) for clip in clips]
        )
        patch.setattr(audio_latents, "encode_audio", once(audio_latents.encode_audio))
        bench.prepare()


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Bench:
    root = tmp_path_factory.mktemp("thousand")
    (root / "datasets.yaml").write_text(DATASETS)
    (root / "clips").mkdir()
    template = root / "template.mp4"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.36", "-f", "lavfi", "-i", "sine=f=500:d=0.36:r=16000",
        "-c:v", "libx264", "-c:a", "aac", str(template),
    )  # fmt: skip
    content = template.read_bytes()
    for number in range(CLIPS):
        clip = root / "clips" / f"clip-{number:04d}.mp4"
        clip.write_bytes(content + free_box(number))
        clip.with_suffix(".txt").write_text(f"clip {number}")
    shutil.copytree(tiny_models, root / "workspace" / "models")
    bench = Bench(root, Recipe())
    prepare(bench)
    return bench


def rerun(bench: Bench) -> dict[str, int]:
    """How often each sort of work was done."""
    _, probed = bench.probe()
    split, encoded = bench.split(), bench.encode()
    return {"probed": probed, "split": split, **encoded, "texts": bench.embed()}


@cache
def other_content(folder: Path) -> bytes:
    """Another clip of the same length and size."""
    clip = folder / "other.mp4"
    ffmpeg(
        "-f", "lavfi", "-i", "smptebars=s=64x64:r=25:d=0.36",
        "-f", "lavfi", "-i", "sine=f=900:d=0.36:r=16000", "-c:v", "libx264", "-c:a", "aac", str(clip),
    )  # fmt: skip
    return clip.read_bytes()


def test_one_of_a_thousand_replaced_is_one_video_and_one_audio_encode(thousand: Bench) -> None:
    assert len(thousand.ctx.snapshot.samples) == CLIPS
    assert len({sample.media_id for sample in thousand.ctx.snapshot.samples}) == CLIPS
    nothing = {"probed": 0, "split": 0, "video": 0, "audio": 0, "texts": 0}
    assert rerun(thousand) == nothing

    (thousand.clips / "clip-0500.mp4").write_bytes(other_content(thousand.root))
    work = explain_clip(thousand.ctx, "clips/clip-0500.mp4").work
    assert work[0] == "probe-media: the file was changed since it was looked at"
    assert rerun(thousand) == {"probed": 1, "split": 1, "video": 1, "audio": 1, "texts": 0}
    assert len(thousand.ctx.snapshot.samples) == CLIPS

    (thousand.clips / "clip-0007.txt").write_text("another caption")
    assert rerun(thousand) == {**nothing, "texts": 1}
    assert rerun(thousand) == nothing
