"""The dataset report on real stages' outputs: complete, self-contained, cheap to write again."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.jobs.report.bucket_advice import advise
from ltxcore.jobs.report.charts import histogram
from ltxcore.jobs.report.page import as_markdown, page
from ltxcore.jobs.report.pictures import BARS, evenly, levels
from ltxcore.jobs.report.write_pages import of_snapshot, write_comparison, write_report
from ltxcore.media import thumbnail as thumbnails
from ltxcore.media.errors import MediaError
from ltxcore.stages.probe_media.media_files import find_files
from ltxcore.stages.probe_media.memo import Memo
from tests.e2e.browser import chromium
from tests.stages.conftest import Bench
from tests.unit.media.files import caption, tone

NASTY = (
    "</script><script>alert(1)</script> & <b onclick='alert(2)'>\"bold\"</b> {{ 7*7 }} ${7*7} [a](b) | *c*"
)
NASTY_NAME = "<i>&amp;'\" {{ 7*7 }} ![a](b).mp4"


class Page(HTMLParser):
    """The tags and attributes of a page; complains of tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_report_of_a_probed_dataset(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.clips / "twin.mp4.txt").write_text(NASTY)
    (bench.clips / "note.mp4").write_text("no video")
    (bench.clips / NASTY_NAME).write_text("no video")
    bench.look()
    path, report = write_report(bench.ctx)
    text = path.read_text()
    read = Page(text)
    assert not [v for n, v in read.attributes if n in ("src", "href") and v and not v.startswith("data:")]
    data = data_of(text)
    clips = {clip["id"]: clip for clip in data["clips"]}
    assert len(clips) == 7
    assert f"clips/{NASTY_NAME}" in read.text
    assert clips["clips/note.mp4"]["verdict"] == "rejected"
    assert clips["clips/twin.mp4"]["captions"] == [NASTY]
    assert "<b onclick" not in text
    picture = base64.b64decode(data["thumbnails"][clips["clips/twin.mp4"]["media"]])
    assert picture.startswith(b"\xff\xd8")
    assert len(picture) < 6000
    assert clips["clips/twin.mov"]["lufs"] is not None
    assert clips["clips/orange-disc-silent.mp4"]["sound"] == ""
    assert report.facts()["With sound"] == "4 of 5"
    assert "is not a video that can be read" in text
    assert "no other buckets are better" in text
    markdown = as_markdown(report)
    assert "| Rejected | 2 |" in markdown
    shown = Page(MarkdownIt("commonmark").enable("table").render(markdown))
    assert f"clips/{NASTY_NAME}" in shown.text
    assert not {"i", "img", "a"} & set(shown.tags)
    assert "64x64@17" in markdown

    def never(*_: object) -> bytes:
        raise AssertionError("a thumbnail was made again")

    monkeypatch.setattr("ltxcore.jobs.report.pictures.thumbnail", never)
    assert write_report(bench.ctx)[0].read_text() == text


def test_strangers_text_is_text_in_a_browser(bench: Bench) -> None:
    (bench.clips / "twin.mp4.txt").write_text(NASTY)
    (bench.clips / NASTY_NAME).write_text("no video")
    bench.look()
    path, _ = write_report(bench.ctx)
    with chromium() as browser:
        page = browser.new_context(offline=True).new_page()
        troubles: list[str] = []
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(path.as_uri())
        clip = page.locator(".clips tr", has_text="clips/twin.mp4")
        assert clip.locator(".caption").inner_text() == NASTY
        clip.get_by_role("button", name="Play clips/twin.mp4").click()
        page.wait_for_function("document.querySelector('.clips video')?.currentTime > 0")
        page.locator("#search").fill("&amp;'\"")
        page.get_by_text("1 of 1", exact=True).wait_for()
        assert page.locator(".clips .name").all_inner_texts() == [f"clips/{NASTY_NAME}"]
        assert troubles == []


def test_later_stages_add_waveforms_and_token_counts(bench: Bench) -> None:
    (bench.clips / "twin.mp4.txt").write_text("many words " * 2000)
    bench.look()
    _, before = write_report(bench.ctx)
    assert {clip.waveform for clip in before.clips} == {""}
    assert {clip.tokens for clip in before.clips} == {None}
    bench.split()
    bench.embed()
    path, report = write_report(bench.ctx, quarantined={"clips/twin.mov": "does not decode"})
    clips = {clip.id: clip for clip in report.clips}
    assert len(clips["clips/blue-box-up.mp4"].waveform) == BARS
    assert clips["clips/orange-disc-silent.mp4"].waveform == ""
    assert clips["clips/twin.mp4"].cut_from > (clips["clips/twin.mp4"].tokens or 0) > 0
    assert clips["clips/twin.mov"].verdict == "quarantined"
    assert any(
        warning.startswith("cut at") and warning.endswith(" 1 caption") for warning in report.warnings()
    )
    assert "Cut at" in path.read_text()


def test_the_comparison_of_two_snapshots_by_command(bench: Bench) -> None:
    first, _ = bench.probe()
    (bench.clips / "twin.mp4.txt").write_text("Another caption.")
    (bench.clips / "red [").mkdir()
    (bench.clips / "red-disc-right.mp4").rename(bench.clips / "red [/] disc.mp4")
    second, _ = bench.probe()
    ids = (first.id, second.id)
    page_path, changes = write_comparison(of_snapshot(bench.ctx, second.id), first.id)
    # The caption keeps its name, and is now one without a clip.
    assert (changes.count("removed"), changes.count("changed")) == (1, 1)
    assert changes.count("added") == 2
    assert "Changes since" in page_path.read_text()
    Page(page_path.read_text())
    common = ["--workspace", str(bench.ctx.workspace.root), "--datasets", str(bench.root / "datasets.yaml")]
    done = CliRunner().invoke(app, ["report", *common, "--compare", *ids])
    assert done.exit_code == 0, done.output
    assert "removed" in done.output
    assert "red [/] disc.mp4" in done.output, "a name is no markup"
    assert "other caption" in done.output
    assert Path(done.output.strip().splitlines()[-1]).is_file()
    done = CliRunner().invoke(app, ["report", *common, "--compare", first.id, "0" * 16])
    assert done.exit_code == 2
    assert "holds no snapshot" in done.output
    assert CliRunner().invoke(app, ["buckets", *common, "--count", "2"]).exit_code == 0


def test_ten_thousand_clips_make_a_page_of_bearable_size_in_seconds(bench: Bench) -> None:
    bench.look()
    _, report = write_report(bench.ctx)
    clip = report.taken[0]
    many = tuple(
        type(clip)(**{**clip.__dict__, "id": f"clips/{n}.mp4", "captions": ("A caption of words. " * 20,)})
        for n in range(10_000)
    )
    started = time.process_time()
    text = page(type(report)(**{**report.__dict__, "clips": many}))
    assert time.process_time() - started < 10
    assert len(text) < 12e6


MIXED = """
- {id: stills, dataset_type: image, instance_data_dir: stills, resolution: 64}
- id: sounds
  dataset_type: audio
  instance_data_dir: sounds
  audio: {audio_only: true, duration_interval: 0.5}
- {id: text, dataset_type: text_embeds}
"""


def test_pictures_have_thumbnails_and_sounds_waveforms(bench: Bench) -> None:
    for name in ("stills", "sounds"):
        (bench.root / name).mkdir()
    (bench.root / "datasets.yaml").write_text(MIXED)
    clear = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 100, 100))
    clear.save(bench.root / "stills/half.png")
    tone(bench.root / "sounds/tone.wav", 1.2)
    for name in ("stills/half.png", "sounds/tone.wav"):
        caption(bench.root / name)
    bench.look()
    bench.split()
    path, report = write_report(bench.ctx)
    data = data_of(path.read_text())
    clips = {clip["id"]: clip for clip in data["clips"]}
    still, sound = clips["stills/half.png"], clips["sounds/tone.wav"]
    shown = Image.open(io.BytesIO(base64.b64decode(data["thumbnails"][still["media"]])))
    assert shown.size == (112, 56)
    left, right = (np.asarray(shown)[20, column] for column in (20, 90))
    assert left[0] > 200 > 60 > left[1]
    assert right.min() > 240, "what is transparent stands on white"
    assert sound["media"] not in data["thumbnails"]
    assert len(sound["wave"]) == BARS
    assert (sound["sound"], sound["size"], sound["used"], sound["seconds"]) == ("mono", "", 1.0, 1.2)
    assert still["sound"] == ""
    assert report.facts()["With sound"] == "1 of 1", "pictures cannot sound"
    assert report.facts()["Length used"] == "1.0 s of 1.2 s", "pictures do not last"
    assert "Frames used" not in report.facts()
    assert "by a thumbnail" not in path.read_text()
    few = replace(report, thumbnails={})
    assert "0 of 1 different files have a thumbnail" in page(few)
    still_alone = replace(report, clips=tuple(clip for clip in report.clips if clip.kind == "image"))
    assert not {"Length used", "Frames used", "With sound"} & still_alone.facts().keys()
    assert "Blue: clips with sound" not in page(still_alone)
    assert report.warnings() == []
    assert "Frame rates" not in path.read_text()


def test_a_picture_that_could_not_be_made_in_time_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.look()
    with monkeypatch.context() as patched:
        patched.setattr(thumbnails, "TIMEOUT_S", 0.001)
        assert set(write_report(bench.ctx)[1].thumbnails.values()) == {b""}
    assert all(write_report(bench.ctx)[1].thumbnails.values())


def test_advice_counts_the_waste_as_configured(bench: Bench) -> None:
    bench.look()
    ctx = bench.ctx
    found = advise(ctx, Memo(ctx), find_files(ctx), count=2)
    assert [advice.dataset for advice in found] == ["clips"]
    assert found[0].clips == 5
    assert {str(bucket) for bucket in found[0].configured} == {s.bucket for s in ctx.snapshot.samples}
    assert found[0].waste.clips_left_out == 0
    assert len(found[0].chosen.buckets) <= 2


def test_small_parts(sample_clips: Path) -> None:
    assert evenly(list(range(10)), 4) == [0, 2, 5, 7]
    assert evenly([1, 2], 4) == [1, 2]
    ramp = np.linspace(0, 1, 48_000, dtype=np.float32)
    loud = levels(np.stack([ramp, ramp]))
    assert (len(loud), loud[-1]) == (BARS, "z")
    assert list(loud) == sorted(loud)
    assert levels(np.zeros((2, 10), np.float32)) == "0" * BARS
    assert histogram([], "s") is None
    found = histogram([3.0, 3.0, 9.0], "words")
    assert found is not None
    assert [column.count for column in found.columns] == [2, 0, 0, 0, 0, 0, 1]
    assert (found.at(0), found.at(7)) == ("3", "10")
    with pytest.raises(MediaError, match="gives no picture at"):
        thumbnails.thumbnail(sample_clips / "twin.mp4", 99.0)
