"""Videos, measures, contact sheet and gallery, on synthetic renderings and with the real ffmpeg."""

from __future__ import annotations

import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.validation.contact_sheet import spaced, write_contact_sheet
from ltxcore.validation.gallery import Compared, Entry, GalleryFacts, Side, write_gallery, write_poster
from ltxcore.validation.metrics import Measures, mean_difference, measure
from ltxcore.validation.rendering_settings import Rendering, render_settings
from ltxcore.validation.sides import Sides
from ltxcore.validation.video_file import VideoFileError, write_video


def moving(
    name: str = "ball",
    count: int = 17,
    size: tuple[int, int] = (96, 64),
    fps: float = 25.0,
    sample_rate: int = 24000,
    colour: tuple[int, int, int] = (230, 120, 40),
    extra_samples: int = 0,
) -> Rendering:
    """A disc that crosses a gradient, with a 440 Hz tone."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    frames = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        frame = np.stack([40 + 60 * x / width, 60 + 80 * y / height, np.full_like(x, 110)], axis=-1)
        centre = width * (0.15 + 0.7 * number / max(1, count - 1))
        frame[(x - centre) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2] = colour
        frames[number] = frame
    samples = round(count / fps * sample_rate) + extra_samples
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / sample_rate)
    return Rendering(name, frames, np.stack([tone, tone]).astype(np.float32), fps, sample_rate, 7, 1.0)


def silent_like(rendering: Rendering, frames: np.ndarray) -> Rendering:
    quiet = np.zeros_like(rendering.audio)
    return Rendering("still", frames, quiet, rendering.fps, rendering.sample_rate, 7, 1.0)


def ffprobe(path: Path) -> dict[str, dict[str, str]]:
    result = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", f"file:{path}"],
        check=True,
        capture_output=True,
    )
    return {stream["codec_type"]: stream for stream in json.loads(result.stdout)["streams"]}


def decoded(path: Path, *arguments: str) -> bytes:
    command = ["ffmpeg", "-v", "error", "-i", f"file:{path}", *arguments, "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize(
    ("fps", "rate", "extra"), [(25.0, "25/1", 0), (24.0, "24/1", 4000), (30000 / 1001, "30000/1001", -4000)]
)
def test_a_video_has_its_frames_its_rate_and_sound_of_its_length(
    tmp_path: Path, fps: float, rate: str, extra: int
) -> None:
    path = tmp_path / "out" / "-odd name%3a.mp4"
    write_video(path, moving(fps=fps, extra_samples=extra))
    streams = ffprobe(path)
    video, audio = streams["video"], streams["audio"]
    assert (video["codec_name"], video["pix_fmt"], video["color_space"]) == ("h264", "yuv420p", "bt709")
    assert (audio["codec_name"], audio["sample_rate"], audio["channels"]) == ("aac", "24000", 2)
    assert video["nb_read_frames"] == "17"
    assert video["r_frame_rate"] == rate
    assert float(video["duration"]) == pytest.approx(17 / fps, abs=1e-3)
    assert float(audio["duration"]) == pytest.approx(17 / fps, abs=1 / fps)
    heard = np.frombuffer(decoded(path, "-f", "f32le"), np.float32).reshape(-1, 2)[2000:10000, 0]
    tone_hz = np.fft.rfftfreq(len(heard), 1 / 24000)[np.abs(np.fft.rfft(heard)).argmax()]
    assert tone_hz == pytest.approx(440, abs=5)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat"), (
        "a browser must not need the end"
    )


def test_colours_survive_the_file(tmp_path: Path) -> None:
    rendering = moving(size=(128, 64))
    write_video(tmp_path / "a.mp4", rendering)
    back = decoded(tmp_path / "a.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-sws_flags", "accurate_rnd")
    frames = np.frombuffer(back, np.uint8).reshape(rendering.frames.shape)
    assert mean_difference(frames, rendering.frames) < 3


def test_frames_larger_than_any_pipe_do_not_block(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(count=33, size=(512, 320)))
    assert ffprobe(tmp_path / "a.mp4")["video"]["nb_read_frames"] == "33"


def test_a_failing_encode_tells_ffmpegs_reason_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the one before")
    odd = moving(size=(33, 31))
    with pytest.raises(VideoFileError, match="not divisible by 2"):
        write_video(path, odd)
    assert path.read_bytes() == b"the one before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    good = moving()
    mono = Rendering("m", good.frames, good.audio[:1], 25, 24000, 0, 0)
    with pytest.raises(ValueError, match=r"float32 \[2, N\]; found float32 \[1,"):
        write_video(tmp_path / "a.mp4", mono)
    grey = Rendering("g", good.frames[..., 0], good.audio, 25, 24000, 0, 0)
    with pytest.raises(ValueError, match=r"uint8 \[F, H, W, 3\]"):
        write_video(tmp_path / "a.mp4", grey)


def test_measures_of_a_moving_sounding_clip() -> None:
    found = measure(moving())
    assert found.flags == ()
    assert found.motion > 1
    assert found.smoothness > 0.8
    assert found.audio_peak_dbfs == pytest.approx(-10.46, abs=0.05)
    assert found.audio_rms_dbfs == pytest.approx(-13.47, abs=0.05)
    assert found.audio_centroid_hz == pytest.approx(440, abs=60)
    assert Measures.model_validate_json(found.model_dump_json()) == found
    assert found.numbers("validation/ball/lora")["validation/ball/lora/motion"] == found.motion


def test_what_a_person_should_look_at_is_flagged() -> None:
    like = moving()
    black = measure(silent_like(like, np.zeros_like(like.frames)))
    assert black.flags == ("almost black", "one flat colour", "does not move", "silent")
    assert black.audio_rms_dbfs is None
    assert "x/audio_rms_dbfs" not in black.numbers("x")
    noise = np.random.default_rng(0).integers(0, 256, like.frames.shape, dtype=np.uint8)
    assert measure(silent_like(like, noise)).flags == ("looks like noise", "silent")
    loud = Rendering("l", like.frames, like.audio * 5, 25, 24000, 0, 0)
    assert measure(loud).flags == ("sound clips",)
    assert measure(moving(count=1)).motion == 0


def test_difference_of_two_clips() -> None:
    one = np.zeros((2, 4, 4, 3), np.uint8)
    assert mean_difference(one, one) == 0
    assert mean_difference(one, np.full_like(one, 255)) == 255
    assert mean_difference(np.full_like(one, 255), one) == 255
    with pytest.raises(ValueError, match="cannot be compared"):
        mean_difference(one, one[:1])


def test_the_plan_rounds_down_and_says_so() -> None:
    asked = {
        "validation_resolution": "854x480",
        "validation_num_video_frames": 61,
        "validation_guidance": 9.0,
    }
    plan = render_settings(ValidationSettings.model_validate(asked))
    assert (plan.width, plan.height, plan.num_frames) == (832, 480, 57)
    assert len(plan.notes) == 3
    assert "854x480 is rendered at 832x480" in plan.notes[0]
    assert "61 is rendered as 57" in plan.notes[1]
    assert "outside 2-6" in plan.notes[2]
    for legal in ("768x512", "64x64"):
        assert (
            render_settings(ValidationSettings.model_validate({"validation_resolution": legal})).notes == ()
        )
    with pytest.raises(ValueError, match="below 32 pixels"):
        render_settings(ValidationSettings.model_validate({"validation_resolution": "768x31"}))


@pytest.mark.parametrize(
    ("asked", "legal"), [(1, 1), (2, 1), (8, 1), (48, 41), (49, 49), (50, 49), (121, 121)]
)
def test_lengths_are_eight_n_plus_one(asked: int, legal: int) -> None:
    settings = ValidationSettings.model_validate({"validation_num_video_frames": asked})
    assert render_settings(settings).num_frames == legal


def test_seeds_depend_on_the_name_and_seed_zero_is_a_seed() -> None:
    plan, zero = (
        render_settings(ValidationSettings.model_validate({"validation_seed": seed})) for seed in (42, 0)
    )
    assert len({plan.seed_of("a"), plan.seed_of("b"), zero.seed_of("a")}) == 3
    assert plan.seed_of("a") == plan.seed_of("a")


def test_the_contact_sheet_has_a_strip_for_each_prompt_and_weights(tmp_path: Path) -> None:
    wide, tall = moving("a" * 60), moving("tall", size=(64, 96), count=3)
    prompts = [[("Base", wide), ("LoRA", wide)], [("Base", tall), ("Last weights", tall), ("Average", tall)]]
    write_contact_sheet(tmp_path / "sheet.png", prompts, "Run 1")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 2 * 160 + 3 * 360
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    orange = (np.abs(pixels - [230, 120, 40]).sum(axis=-1) < 40).any(axis=1)
    assert np.count_nonzero(np.diff(orange.astype(int)) == 1) == 5, "one band of discs for each strip"
    with pytest.raises(ValueError, match="at least one prompt"):
        write_contact_sheet(tmp_path / "none.png", [], "")


def test_frames_are_spread_over_the_whole_clip() -> None:
    assert spaced(49, 6) == [0, 10, 19, 29, 38, 48]
    assert spaced(1, 6) == [0]
    assert spaced(3, 6) == [0, 1, 2]


class Links(HTMLParser):
    """Everything a page would fetch, its tags, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "poster") and v and v != "data:,"]

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = """<script>alert("1")</script> & 'quoted' <img src=x onerror=alert(2)> {{ 7*7 }}"""


LORA_FILE = "pytorch_lora_weights.safetensors"


def example_gallery(directory: Path) -> Path:
    """A gallery of two prompts, with hostile text wherever text goes."""
    pairs = [
        (
            moving("red ball & 100%", size=(192, 128)),
            moving("red ball & 100%", size=(192, 128), colour=(60, 180, 240)),
        ),
        (moving("harbour"), silent_like(moving(), moving().frames)),
    ]
    entries = []
    for base, lora in pairs:
        sides = []
        for kind, rendering in (("base", base), ("lora", lora)):
            side = Side(f"{base.name}-{kind}.mp4", f"{base.name}-{kind}.jpg", measure(rendering))
            write_video(directory / side.video, rendering)
            write_poster(directory / side.poster, rendering)
            sides.append(side)
        _, height, width, _ = base.frames.shape
        difference = mean_difference(base.frames, lora.frames)
        prompt = f"{HOSTILE} A ball rolls along the pier while gulls call."
        loras = Sides(lora=Compared(HOSTILE, sides[1], difference), ema=Compared("Average", sides[0], 0.0))
        entries.append(Entry(base.name, prompt, base.seed, (width, height), sides[0], loras))
    strips = [[("Base", base), ("LoRA", lora)] for base, lora in pairs]
    write_contact_sheet(directory / "contact-sheet.png", strips, "LTX-2 LoRA")
    facts = GalleryFacts(
        title="LTX-2 LoRA, run 2026-11-20",
        sampling=(("Steps", "40"), ("Guidance", "5"), ("Size", "768x512"), ("Length", "49 frames, 25 fps")),
        run=(("Snapshot", "0123456789abcdef"), ("Rank", "16"), ("Learning rate", "6e-5"), (HOSTILE, HOSTILE)),
        lora_files=(
            ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.safetensors"),
            (HOSTILE, "a&b"),
        ),
        notes=("validation_num_video_frames 61 is rendered as 57: lengths must be 8n+1", HOSTILE),
        negative_prompt=HOSTILE,
        contact_sheet="contact-sheet.png",
    )
    return write_gallery(directory, facts, entries)


def test_the_gallery_shows_files_beside_it_and_nothing_else(tmp_path: Path) -> None:
    page = example_gallery(tmp_path)
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    loras = {LORA_FILE, "a&b"}
    assert loras <= set(map(unquote, links.fetched)), "LoRA files are links"
    shown = [link for link in map(unquote, links.fetched) if link not in loras]
    assert all((tmp_path / link).is_file() for link in shown), links.fetched
    assert links.tags.count("video") == 6
    assert links.text.count("Play all") == 2
    assert links.tags.count("script") == 1
    assert "onerror=alert(2)" in links.text, "hostile text is shown as text"
    assert links.text.count(HOSTILE) == 12, "labels and their list, prompts, differences, facts, notes, files"
    assert links.tags.count("img") == 1
    assert "silent" in links.text
    assert "http" not in page.read_text(encoding="utf-8")


def test_a_gallery_of_missing_files_is_refused(tmp_path: Path) -> None:
    side = Side("a.mp4", "a.jpg", measure(moving()))
    entry = Entry("a", "prompt", 1, (64, 64), side, Sides(lora=Compared("LoRA", side, 0.0)))
    with pytest.raises(FileNotFoundError, match=r"a\.mp4"):
        write_gallery(tmp_path, GalleryFacts("t", (), (), ()), [entry])
