"""Every dataset key, with a value and what it does to real files; and what is refused, with advice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ltxcore.config import dataset_kinds as kinds
from ltxcore.config.dataset_remarks import remarks
from ltxcore.config.datasets import Datasets, load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe
from ltxcore.pipeline.base.context import context_here
from ltxcore.store.fingerprint import derive_seed, hash_file
from ltxcore.store.snapshot import Sample, Snapshot
from ltxcore.store.workspace import Workspace
from tests.stages.conftest import snapshot_of
from tests.unit.media.clips import ffmpeg
from tests.unit.media.files import caption, picture, tone


class Seen(NamedTuple):
    """What a dataset file comes to."""

    datasets: Datasets
    snapshot: Snapshot

    def __getitem__(self, path: str) -> Sample:
        return next(s for s in self.snapshot.samples if s.path == path)

    def reason(self, path: str) -> str:
        return next(r.reason for r in self.snapshot.rejections if r.path == path)

    @property
    def paths(self) -> list[str]:
        return [s.path for s in self.snapshot.samples]

    @property
    def remarks(self) -> str:
        return "\n".join(remarks(self.datasets))


def clip(path: Path, size: str, rate: str, frames: int, *options: str, sound: bool = True) -> None:
    seconds = frames / int(rate)
    tones = ("-f", "lavfi", "-i", f"sine=f=500:d={seconds}:r=48000") if sound else ()
    ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}", *tones, "-c:a", "flac", "-pix_fmt",
        "yuv420p", *options, str(path),
    )  # fmt: skip
    caption(path, f"A {path.stem} clip of a fox.\nThe {path.stem} fox runs.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, two pictures, three sounds, a table of captions and a list of filters."""
    root = tmp_path_factory.mktemp("keys")
    for name in ("clips", "stills", "sounds", "alone", "films"):
        (root / name).mkdir()
    clip(root / "clips/wide.mkv", "96x64", "25", 34)
    clip(root / "clips/tall_box.mkv", "64x96", "50", 60)
    clip(root / "clips/mute.mkv", "64x64", "25", 20, sound=False)
    clip(root / "films/pq.mkv", "64x64", "25", 10, "-color_trc", "smpte2084")
    clip(
        root / "films/woven.mkv",
        "64x64",
        "25",
        10,
        "-c:v",
        "mpeg2video",
        "-flags",
        "+ilme+ildct",
        "-top",
        "1",
    )
    for number, name in enumerate(("one.png", "two.jpg")):
        caption(picture(root / "stills" / name, seed=number))
    tone(root / "sounds/wide.wav", 2.0)
    tone(root / "sounds/mute.wav", 0.4)
    for name, seconds in (("long.wav", 3.5), ("brief.wav", 0.68)):
        caption(tone(root / "alone" / name, seconds))
    (root / "strange").mkdir()
    (root / "strange/far.png").symlink_to(root / "stills/one.png")
    (root / "strange/far.txt").write_text("from elsewhere")
    caption(picture(root / "strange/wordy.png", seed=3), "word " * 500)
    names = ["wide.mkv", "clips/tall_box.mkv", "mute"]
    words = pa.array([["from the table", "again"], [""], None], pa.list_(pa.string()))
    pq.write_table(
        pa.table({"file": names, "text": words, "tags": [None, "spare", "tags"]}), root / "t.parquet"
    )
    (root / "filters.txt").write_text("fox\ns/clip/film/\n")
    return root


def load(folder: Path, *sets: dict[str, Any]) -> Datasets:
    file = folder / "datasets.yaml"
    text = {"id": "text", "dataset_type": "text_embeds"}
    given = [*sets] if any(s.get("dataset_type") == "text_embeds" for s in sets) else [*sets, text]
    file.write_text(yaml.safe_dump(given))
    return load_datasets(file)


def see(folder: Path, *sets: dict[str, Any]) -> Seen:
    datasets = load(folder, *sets)
    referred = any(s.get("dataset_type") == "conditioning" for s in sets)
    conditions = [{"type": "reference"}] if referred else []
    recipe = Recipe.model_validate({"conditioning": {"video": {"conditions": conditions}}})
    ctx = context_here(Workspace(folder / "workspace"), recipe, folder / "datasets.yaml")
    return Seen(datasets, snapshot_of(ctx))


def video(**keys: Any) -> dict[str, Any]:
    frames = {"num_frames": 17, **keys.pop("video", {})}
    return {
        "id": "clips", "dataset_type": "video", "instance_data_dir": "clips", "resolution": 64,
        "resolution_type": "pixel", "video": frames, **keys,
    }  # fmt: skip


def image(**keys: Any) -> dict[str, Any]:
    given = {"id": "stills", "dataset_type": "image", "instance_data_dir": "stills", "resolution": 64}
    return {**given, **keys}


def sounds(**keys: Any) -> dict[str, Any]:
    return {"id": "sounds", "dataset_type": "audio", "instance_data_dir": "sounds", **keys}


def alone(**audio: Any) -> dict[str, Any]:
    return {"id": "alone", "dataset_type": "audio", "instance_data_dir": "alone", "audio": audio}


def texts(**keys: Any) -> dict[str, Any]:
    return {"id": "text", "dataset_type": "text_embeds", **keys}


TABLE = {"path": "t.parquet", "filename_column": "file", "caption_column": "text"}
Row = tuple[str, list[dict[str, Any]], Callable[[Seen], Any], Any]
ROWS: list[Row] = [
    ("id", [video(id="mine")], lambda s: s["wide.mkv"].id, "mine/wide.mkv"),
    ("type", [video(type="local")], lambda s: len(s.paths), 3),
    ("dataset_type", [video(), image()], lambda s: {x.kind for x in s.snapshot.samples}, {"video", "image"}),
    ("instance_data_dir", [image(instance_data_dir="./stills/")], lambda s: s.paths, ["one.png", "two.jpg"]),
    (
        "caption_strategy", [video(caption_strategy="textfile")], lambda s: s["wide.mkv"].captions,
        ("A wide clip of a fox.", "The wide fox runs."),
    ),
    (
        "caption_strategy", [video(caption_strategy="filename")], lambda s: s["tall_box.mkv"].captions,
        ("tall box",),
    ),
    (
        "disable_multiline_split", [video(disable_multiline_split=True)], lambda s: s["wide.mkv"].captions,
        ("A wide clip of a fox.\nThe wide fox runs.",),
    ),
    (
        "instance_prompt", [video(caption_strategy="instanceprompt", instance_prompt="sks")],
        lambda s: s["wide.mkv"].captions, ("sks",),
    ),
    (
        "instance_prompt", [video(instance_prompt="sks")],
        lambda s: "instance_prompt has no effect with caption_strategy textfile" in s.remarks, True,
    ),
    (
        "prepend_instance_prompt",
        [video(caption_strategy="filename", instance_prompt="sks", prepend_instance_prompt=True)],
        lambda s: s["wide.mkv"].captions, ("sks wide",),
    ),
    (
        "parquet", [video(caption_strategy="parquet", parquet=TABLE)],
        lambda s: (s["wide.mkv"].captions, s.reason("mute.mkv")),
        (("from the table", "again"), "its caption in t.parquet (row 'mute') is empty"),
    ),
    (
        "parquet", [video(parquet=TABLE)],
        lambda s: "parquet has no effect with caption_strategy textfile" in s.remarks, True,
    ),
    (
        "fallback_caption_column",
        [video(caption_strategy="parquet", parquet={**TABLE, "fallback_caption_column": "tags"})],
        lambda s: (s["tall_box.mkv"].captions, s["mute.mkv"].captions), (("spare",), ("tags",)),
    ),
    (
        "identifier_includes_extension",
        [video(caption_strategy="parquet", parquet={**TABLE, "identifier_includes_extension": True})],
        lambda s: (s["wide.mkv"].captions, s.reason("mute.mkv")),
        (("from the table", "again"),
         "has no caption: no file in t.parquet is 'mute.mkv' (identifier_includes_extension is true)"),
    ),
    (
        "identifier_includes_extension",
        [video(caption_strategy="parquet", parquet={
            **TABLE, "identifier_includes_extension": False, "fallback_caption_column": "tags"},
            audio={"auto_split": False})],
        lambda s: (s["mute.mkv"].captions, s.reason("wide.mkv")),
        (("tags",),
         "has no caption: no file in t.parquet is 'wide' (identifier_includes_extension is false)"),
    ),
    *(
        (
            key, [video(caption_strategy="parquet", parquet={**TABLE, key: "any"})],
            lambda s, key=key: f"parquet.{key} has no effect" in s.remarks, True,
        )
        for key in ("width_column", "height_column", "bbox_column")
    ),
    (
        "caption_filter_list", [video(caption_filter_list="filters.txt")],
        lambda s: s["wide.mkv"].captions[0], "A wide film of a .",
    ),
    (
        "caption_filter_list", [video(), texts(caption_filter_list=[" of a fox", r"s/(\w+) clip/\1/"])],
        lambda s: s["wide.mkv"].captions[0], "A wide.",
    ),
    (
        "caption_weights", [video(caption_weights=[3])],
        lambda s: s["wide.mkv"].caption_weights, (0.75, 0.25),
    ),
    (
        "caption_shuffle",
        [video(caption_shuffle={"enable": True, "split_on": "space", "position_start": 4})],
        lambda s: s["wide.mkv"].captions,
        ("A wide clip of a fox.", "A wide clip of fox. a", "The wide fox runs."),
    ),
    (
        "follow_links", [image(instance_data_dir="strange")], lambda s: s.reason("far.png"),
        "is a link out of the datasets' directories; put the file itself there, or write "
        "`follow_links: true` for the dataset",
    ),
    (
        "follow_links", [image(instance_data_dir="strange", follow_links=True)],
        lambda s: s["far.png"].captions, ("from elsewhere",),
    ),
    (
        "max_caption_kib", [image(instance_data_dir="strange", max_caption_kib=1)],
        lambda s: s.reason("wordy.png"),
        "its caption wordy.txt is too large: 2500 bytes, and 1024 are the most that is read; shorten it, or "
        "raise `max_caption_kib`",
    ),
    (
        "max_megapixels", [image(max_megapixels=0.006)], lambda s: s.reason("one.png"),
        "shows a picture of 96x64 pixels, 0.00614 megapixels; max_megapixels is 0.006",
    ),
    ("max_megapixels", [image(max_megapixels=0.007)], lambda s: s["one.png"].bucket, "64x64@1"),
    ("repeats", [video(repeats=3)], lambda s: s["wide.mkv"].visits, 4),
    ("probability", [video(probability=0.25)], lambda s: s["wide.mkv"].probability, 0.25),
    ("disabled", [video(disabled=True), image()], lambda s: s.paths, ["one.png", "two.jpg"]),
    ("cache_dir", [video(cache_dir="x")], lambda s: "clips: cache_dir is not used" in s.remarks, True),
    ("cache_dir", [video(), texts(cache_dir="x")], lambda s: "text: cache_dir is" in s.remarks, True),
    ("default", [video(), texts(default=True)], lambda s: s.datasets.text_embeds.default, True),
    ("cache_dir_vae", [video(cache_dir_vae="x")], lambda s: "cache_dir_vae is not used" in s.remarks, True),
    (
        "is_regularisation_data", [video(), image(is_regularisation_data=True)],
        lambda s: {x.path for x in s.snapshot.samples if x.regularisation}, {"one.png", "two.jpg"},
    ),
    ("resolution", [video(resolution=128)], lambda s: s["wide.mkv"].geometry.target, (192, 128)),
    (
        "resolution_type", [video(resolution=0.04, resolution_type="area")],
        lambda s: s["mute.mkv"].geometry.target, (192, 192),
    ),
    (
        "resolution_type", [video(resolution=128, resolution_type="pixel_area")],
        lambda s: s["tall_box.mkv"].geometry.target, (96, 160),
    ),
    (
        "aspect_bucket_alignment", [video(resolution=96, aspect_bucket_alignment=64)],
        lambda s: s["wide.mkv"].geometry.target, (128, 128),
    ),
    ("crop", [video(crop=True)], lambda s: s["wide.mkv"].geometry.target, (64, 64)),
    ("crop_style", [video(crop=True)], lambda s: s["wide.mkv"].geometry.crop_xy, (16, 0)),
    (
        "crop_style", [video(crop=True, crop_style="corner")],
        lambda s: s["wide.mkv"].geometry.crop_xy, (0, 0),
    ),
    (
        "crop_style", [video(crop=True, crop_style="random")],
        # Of 32 spare pixels, drawn from the content and the sizes.
        lambda s: (crop := s["wide.mkv"].geometry.crop_xy)
        == (derive_seed(s["wide.mkv"].media_id, 96, 64, 64, 64, "crop x") % 33, 0) or crop, True,
    ),
    (
        "crop_aspect", [video(crop=True, crop_aspect="preserve")],
        lambda s: s["wide.mkv"].geometry.target, (96, 64),
    ),
    (
        "crop_aspect_buckets", [video(crop=True, crop_aspect="closest", crop_aspect_buckets=[0.5, 1.0, 2.0])],
        lambda s: (s["wide.mkv"].geometry.target, s["tall_box.mkv"].geometry.target), ((128, 64), (64, 128)),
    ),
    (
        "crop_aspect_buckets", [video(crop=True, crop_aspect="random", crop_aspect_buckets=[0.5, 2.0])],
        lambda s: {x.geometry.target for x in s.snapshot.samples} <= {(64, 128), (128, 64)}, True,
    ),
    (
        "buckets", [video(buckets=["96x64x33", "64x96x25", "64x64x9"], video={"max_frames": 40})],
        lambda s: {p: s[p].bucket for p in s.paths},
        {"mute.mkv": "64x64@9", "tall_box.mkv": "64x96@25", "wide.mkv": "96x64@33"},
    ),
    (
        "buckets", [video(buckets=["64x64x25", "96x64x25"])],
        lambda s: (s["wide.mkv"].bucket, s.reason("mute.mkv")),
        ("96x64@25", "is too short for every bucket of its dataset: it has 20 frames at 25 fps, and the "
         "shortest is 64x64x25"),
    ),
    (
        "buckets", [video(buckets=["64x64x9"])],
        lambda s: [line for line in s.remarks.splitlines() if "buckets" in line],
        [f"clips: {key} has no effect: the dataset names its buckets"
         for key in ("resolution", "resolution_type", "video.num_frames")],
    ),
    ("buckets", [image(buckets="64x32")], lambda s: s["one.png"].bucket, "64x32@1"),
    (
        "conditioning_data",
        [video(conditioning_data="shown"),
         {"id": "shown", "dataset_type": "conditioning", "conditioning_type": "reference",
          "instance_data_dir": "clips"}],
        lambda s: s["wide.mkv"].conditioning_clips[0].path, "wide.mkv",
    ),
    ("minimum_aspect_ratio", [video(minimum_aspect_ratio=1)], lambda s: s.paths, ["mute.mkv", "wide.mkv"]),
    (
        "maximum_aspect_ratio", [video(maximum_aspect_ratio=1.2)],
        lambda s: s.reason("wide.mkv"), "has the aspect ratio 1.50 (96x64), and maximum_aspect_ratio is 1.2",
    ),
    (
        "minimum_image_size", [video(minimum_image_size=70, resolution_type="pixel_area")],
        lambda s: (s.paths, s.reason("mute.mkv")),
        (["tall_box.mkv", "wide.mkv"],
         "is too small: it is 64x64, and minimum_image_size asks for the area of 70x70"),
    ),
    ("video", [video()], lambda s: s["wide.mkv"].frames.fps, 25.0),
    ("num_frames", [video(video={"num_frames": 13})], lambda s: s["wide.mkv"].frames.count, 9),
    ("num_frames", [video(video={"num_frames": 13})], lambda s: "13 is used as 9" in s.remarks, True),
    (
        "min_frames", [video(video={"num_frames": 33, "min_frames": 25})],
        lambda s: (s["wide.mkv"].frames.count, s["tall_box.mkv"].frames.count, s.reason("mute.mkv")),
        (33, 25, "is too short: it has 20 frames at 25 fps, and min_frames is 25"),
    ),
    (
        "max_frames", [video(video={"max_frames": 20}, audio={"auto_split": False})],
        lambda s: s.paths, ["mute.mkv"],
    ),
    (
        "frame_rate", [video(video={"frame_rate": 12.5, "min_frames": 1})],
        lambda s: s["tall_box.mkv"].frames.indices[:3], (0, 4, 8),
    ),
    (
        "bucket_strategy", [video(video={"bucket_strategy": "resolution_frames", "min_frames": 1})],
        lambda s: s["wide.mkv"].bucket, "96x64@33",
    ),
    (
        "frame_interval",
        [video(video={"bucket_strategy": "resolution_frames", "min_frames": 1, "frame_interval": 15})],
        lambda s: (s["wide.mkv"].bucket, s["mute.mkv"].bucket), ("96x64@25", "64x64@9"),
    ),
    (
        "frame_interval", [video(video={"frame_interval": 15})],
        lambda s: "frame_interval has no effect without bucket_strategy" in s.remarks, True,
    ),
    (
        "hdr", [video(instance_data_dir="films", video={"num_frames": 9, "hdr": "reject"})],
        lambda s: (s.reason("pq.mkv"), s.paths),
        ("is HDR (PQ, 8 bits), and video.hdr is reject; tone_map takes it", ["woven.mkv"]),
    ),
    (
        "deinterlace", [video(instance_data_dir="films", video={"num_frames": 9})],
        lambda s: s["woven.mkv"].frames.deinterlaced, True,
    ),
    (
        "deinterlace", [video(instance_data_dir="films", video={"num_frames": 9, "deinterlace": False})],
        lambda s: s["woven.mkv"].frames.deinterlaced, False,
    ),
    (
        "num_frames", [video(video={"num_frames": 13, "bucket_strategy": "resolution_frames"})],
        lambda s: s.remarks,
        "clips: video.num_frames cuts no clip: with resolution_frames each keeps its own length",
    ),
    (
        "s2v_datasets", [video(s2v_datasets=["sounds"]), sounds()],
        lambda s: (s["wide.mkv"].audio.sound.path, s["tall_box.mkv"].audio), ("wide.wav", None),
    ),
    (
        "s2v_datasets", [video(s2v_datasets=["sounds", "clips_audio"]), sounds()],
        lambda s: (s["mute.mkv"].audio.sound.path, s["tall_box.mkv"].audio.sound), ("mute.wav", None),
    ),
    (
        "track", [video(audio={"track": 2})], lambda s: s.reason("wide.mkv"),
        "has no audio track 2: it has 1 track, and audio.track is 2",
    ),
    ("track", [video(video={"track": 1})], lambda s: s["wide.mkv"].frames.track, 0),
    ("audio", [video()], lambda s: s["wide.mkv"].audio.duration_s, 0.68),
    ("auto_split", [video(audio={"auto_split": False})], lambda s: s["wide.mkv"].audio, None),
    ("sample_rate", [video(audio={"sample_rate": 16000})], lambda s: s["wide.mkv"].audio.channels, 1),
    ("channels", [video(audio={"channels": "2"})], lambda s: s.datasets.video[0].audio.channels, 2),
    ("sample_rate", [video(audio={"sample_rate": "16000"})], lambda s: len(s.paths), 3),
    ("channels", [video(audio={"channels": 1})], lambda s: "channels 1 is used as 2" in s.remarks, True),
    (
        "duration_interval", [alone(duration_interval=1.5)],
        lambda s: {p: s[p].audio.duration_s for p in s.paths}, {"brief.wav": 0.68, "long.wav": 3.0},
    ),
    (
        "duration_interval", [alone(duration_interval=0.5)],
        lambda s: {p: s[p].bucket for p in s.paths}, {"brief.wav": "audio@0.5s", "long.wav": "audio@3.5s"},
    ),
    ("truncation_mode", [alone()], lambda s: s["long.wav"].audio.start_s, 0.0),
    ("truncation_mode", [alone(truncation_mode="end")], lambda s: s["long.wav"].audio.start_s, 0.5),
    (
        "truncation_mode", [alone(truncation_mode="random")],
        lambda s: 0 < s["long.wav"].audio.start_s < 0.5, True,
    ),
    (
        "truncation_mode", [video(s2v_datasets=["sounds"]), sounds(audio={"truncation_mode": "end"})],
        lambda s: s["wide.mkv"].audio.start_s, 1.32,
    ),
    (
        "min_duration_seconds", [alone(min_duration_seconds=1)],
        lambda s: s.reason("brief.wav"), "is too short: 0.68 s of sound, and min_duration_seconds is 1",
    ),
    (
        "max_duration_seconds", [alone(max_duration_seconds=3)],
        lambda s: s.reason("long.wav"), "is too long: 3.50 s of sound, and max_duration_seconds is 3",
    ),
    (
        "max_duration_seconds", [video(audio={"max_duration_seconds": 0.5, "allow_zero_audio": True})],
        lambda s: s["wide.mkv"].audio.layout, "silence",
    ),
    ("audio_only", [video(audio={"audio_only": True})], lambda s: s["wide.mkv"].kind, "audio"),
    ("audio_only", [alone()], lambda s: (s.datasets.audio_only, s["brief.wav"].kind), (True, "audio")),
    (
        "audio_only", [image(), alone(audio_only=True)],
        lambda s: (s.datasets.audio_only, s["brief.wav"].geometry.target), (False, (64, 64)),
    ),
    (
        "allow_zero_audio", [video(audio={"allow_zero_audio": True})],
        lambda s: s["mute.mkv"].audio.layout, "silence",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "sets", "look", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_a_key_does_what_it_says(
    key: str, sets: list[dict[str, Any]], look: Callable[[Seen], Any], expected: Any, folder: Path
) -> None:
    assert look(see(folder, *sets)) == expected


def test_the_table_has_every_key() -> None:
    models = (
        kinds.VideoDataset, kinds.ImageDataset, kinds.AudioDataset, kinds.TextEmbedsDataset,
        kinds.VideoSettings, kinds.AudioSettings,
    )  # fmt: skip
    known = {name for model in models for name in model.model_fields}
    in_parquet = set(kinds.ParquetSettings.model_fields) - set(TABLE)
    assert {row[0] for row in ROWS} == known | in_parquet


REFUSED: list[tuple[list[dict[str, Any]], str]] = [
    ([video(type="aws")], "0.type: 'aws' is not read here; copy or mount the data"),
    ([image(type="huggingface")], "'huggingface' is not read here"),
    ([video(audio={"sample_rate": 44100})], "0.audio.sample_rate: is 44100, but the audio VAE takes 16000"),
    ([video(audio={"channels": 6})], "0.audio.channels"),
    ([video(audio=False)], "0.audio: must be a block of keys; found false"),
    (
        [video(resolution=512, resolution_type="area")],
        "resolution 512 is in megapixels with resolution_type area; write resolution_type pixel_area",
    ),
    (
        [image(resolution=1.05)],
        "resolution 1.05 is an edge in pixels with resolution_type pixel_area; write resolution_type area",
    ),
    ([video(audio={"min_duration_seconds": 3, "max_duration_seconds": 1})], "min_duration_seconds 3 is more"),
    ([video(caption_strategy="parquet")], "caption_strategy parquet needs `parquet:"),
    ([video(caption_strategy="parquet", parquet={**TABLE, "path": "no.parquet"})], "there is no file"),
    ([video(caption_filter_list="no.txt")], "0.caption_filter_list:"),
    ([video(caption_filter_list=["("])], "'(' is not a regular expression"),
    ([video(crop=True, crop_aspect="closest")], "crop_aspect closest needs `crop_aspect_buckets`"),
    ([video(s2v_datasets=["sound"]), sounds()], "`sound` is not an audio dataset in use; did you mean"),
    ([video(), sounds()], "no video dataset uses the sound of `sounds`; link it there"),
    ([video(s2v_datasets=["sounds"]), sounds(audio={"audio_only": True})], "it cannot be audio_only"),
    ([video(), sounds(id="clips_audio", audio={"audio_only": True})], "give the other set another id"),
    ([image(video={"num_frames": 9})], "0.video: is not a known key"),
    (
        [video(buckets=["768x500x50"])],
        "0.buckets: 768x500x50 is not a bucket of LTX-2: edges are multiples of 32, and there are 8n+1 "
        "frames; the nearest is 768x512x49",
    ),
    ([video(buckets=["64x64"])], "0.buckets: 64x64 names no frames; write 64x64x49"),
    ([video(buckets=["wide"])], "'wide' is not a bucket; write width x height x frames, e.g. 768x512x49"),
    ([video(buckets=["64x64x9", "64x64@9"])], "64x64x9 is given twice"),
    ([image(buckets=["64x64x9"])], "64x64x9 has 9 frames, and a picture is one; write 64x64"),
    ([image(buckets=["10x64"])], "the nearest is 32x64"),
    (
        [video(video={"num_frames": 50, "max_frames": 40})],
        "video.max_frames 40 is less than the 50 frames needed",
    ),
    ([image(disabled=True)], "has no video, image or audio dataset that is not disabled"),
]  # fmt: skip


@pytest.mark.parametrize(("sets", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_a_value_that_cannot_be_honoured_says_what_to_write(
    sets: list[dict[str, Any]], message: str, folder: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder, *sets)
    assert message in str(caught.value)


def test_draws_belong_to_the_clip_and_move_with_no_other(folder: Path, tmp_path: Path) -> None:
    chosen = video(crop=True, crop_style="random")
    before = see(folder, chosen)["wide.mkv"]
    (tmp_path / "clips").mkdir()
    for name in ("wide.mkv", "wide.txt"):
        (tmp_path / "clips" / name).write_bytes((folder / "clips" / name).read_bytes())
    assert see(tmp_path, chosen)["wide.mkv"] == before
    assert before.media_id == hash_file(folder / "clips/wide.mkv")
