"""An ffmpeg that fails on everything, or does nothing, judges nothing; what was no verdict is lifted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ltxcore.jobs.explain import explain
from ltxcore.media import tool_health
from ltxcore.media.errors import ToolSick
from ltxcore.pipeline.data.keys import waveform_key
from ltxcore.stages.encode_latents.request import quarantined as encode_latents_quarantined
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.store.latents import LatentStore
from ltxcore.store.records import CONTENT, EncodedLatent, Quarantined, StoredWaveform
from ltxcore.store.waveforms import WaveformStore
from tests.stages.conftest import Bench

CLIP = "red-disc-right.mp4"
WORDS = "[h264 @ 0x55] symbol lookup error: libx264.so.164: undefined symbol"


FAILS = f"echo '{WORDS}' >&2\nexit 1"
DOES_NOTHING = "exit 0"


def make_sick(monkeypatch: pytest.MonkeyPatch, folder: Path, tool: str, how: str = FAILS) -> None:
    """Put a programme on the PATH that does the same, whatever it is asked."""
    folder.mkdir()
    (folder / tool).write_text(f"#!/bin/sh\n{how}\n")
    (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("tool", "how", "said"),
    [
        ("ffmpeg", FAILS, "undefined symbol"),
        ("ffprobe", FAILS, "undefined symbol"),
        ("ffmpeg", DOES_NOTHING, "come back changed"),
        ("ffprobe", DOES_NOTHING, "it lists b''"),
    ],
)
def test_a_sick_tool_condemns_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, how: str, said: str
) -> None:
    advice = rf"{tool} does not work on this machine: .*{said}.*command -v {tool}"
    with monkeypatch.context() as patched:
        make_sick(patched, tmp_path / "bin", tool, how)
        with pytest.raises(ToolSick, match=advice):
            bench.probe()
    memo = Memo(bench.ctx)
    assert (len(memo.files), len(memo.probes)) == (0, 0)
    snapshot, _ = bench.probe()
    assert snapshot.rejections == ()
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        with pytest.raises(ToolSick, match=advice):
            bench.split()
    assert bench.split() > 0
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        if tool == "ffmpeg":
            with pytest.raises(ToolSick, match=advice):
                bench.encode()
    bench.encode()
    assert encode_latents_quarantined(bench.ctx, LatentStore(bench.ctx.store)) == {}


def test_tools_are_tried_once_and_again_when_they_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    said: Callable[[list[str]], bytes] = tool_health._said
    monkeypatch.setattr(tool_health, "_said", lambda command: asked.append(command[0]) or said(command))
    monkeypatch.setattr(tool_health, "_found_healthy", set())
    tool_health.require_healthy_tools()
    once = len(asked)
    tool_health.require_healthy_tools()
    assert len(asked) == once
    make_sick(monkeypatch, tmp_path / "bin", "ffprobe")
    with pytest.raises(ToolSick, match="ffprobe does not work"):
        tool_health.require_healthy_tools()


def test_a_quarantine_that_was_no_verdict_is_lifted_by_the_next_run(bench: Bench) -> None:
    """As an older version left it: of a file that was not there, or of a tool that was killed."""
    bench.prepare()
    sample = next(sample for sample in bench.ctx.snapshot.samples if sample.path == CLIP)
    assert sample.audio is not None
    sounds, latents = WaveformStore(bench.ctx.store), LatentStore(bench.ctx.store)
    spaces = spaces_of(bench.ctx, latents)
    sound, pictures = waveform_key(sample.media_id, sample.audio), spaces.video_key(sample)
    of_sound = spaces.audio_key(sample, sample.audio)
    sounds.index.commit({sound.value: Quarantined("ffmpeg was killed (signal 9)", sound.inputs)})
    latents.index.commit(
        {key.value: Quarantined("cannot be read: not there", key.inputs) for key in (pictures, of_sound)}
    )
    explained = explain.explain_clip(bench.ctx, f"clips/{CLIP}")
    assert explained.verdict == "in"
    assert [line.partition(":")[0] for line in explained.work] == [
        "encode-latents",
        "split-audio",
        "encode-latents",
    ]
    assert (
        "its quarantine is lifted, since it was no verdict on the file: cannot be read" in explained.work[0]
    )
    assert bench.split() == 1
    assert bench.encode() == {"video": 1, "audio": 1}
    store = LatentStore(bench.ctx.store)
    assert {type(store.index[key.value]) for key in (pictures, of_sound)} == {EncodedLatent}
    assert isinstance(WaveformStore(bench.ctx.store).index[sound.value], StoredWaveform)


def test_a_verdict_on_a_content_stays(bench: Bench, undecodable: Callable[[str], None]) -> None:
    bench.probe()
    bench.split()
    undecodable(CLIP)
    bench.encode()
    records = [record for _, record in LatentStore(bench.ctx.store).index.items()]
    assert [r.reason for r in records if isinstance(r, Quarantined)] == [CONTENT]
    assert bench.encode() == {"video": 0, "audio": 0}
    assert explain.explain_clip(bench.ctx, f"clips/{CLIP}").verdict == "quarantined"
