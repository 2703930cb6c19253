"""A programme that is missing, hangs or is killed says nothing of a file: no verdict of it is kept."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from ltxcore.execution.execution import find_result
from ltxcore.execution.runner import open_execution, run_work
from ltxcore.media import decode, ffmpeg_process
from ltxcore.media.errors import ToolMissing
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.pipeline.base.stamp import Stamp, newest_stamp, why_stale
from ltxcore.stages.encode_latents.request import quarantined as encode_latents_quarantined
from ltxcore.stages.probe_media import memo as probe_media_memo_module
from ltxcore.stages.probe_media.media_files import MediaFile, find_files
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.stages.probe_media.trainable import NothingToTrain
from ltxcore.stages.split_audio.request import to_do as split_audio_to_do
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.waveforms import WaveformStore
from tests.stages.conftest import CLIPS, Bench


def run_probe(bench: Bench) -> Snapshot:
    """The stage as it is run, with its stamp."""
    execution = open_execution(PROBE, bench.ctx, bench.ctx.workspace.run("a"))
    assert execution is not None
    assert isinstance(run_work(execution), Stamp)
    return bench.ctx.snapshot


def hang_at(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Put an ffprobe on the PATH that never comes back from one file."""
    real = shutil.which("ffprobe")
    folder.mkdir()
    script = (
        f'#!/bin/sh\nfor last; do :; done\ncase "$last" in *{name}) exec sleep 60;; esac\nexec {real} "$@"\n'
    )
    (folder / "ffprobe").write_text(script)
    (folder / "ffprobe").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(ffmpeg_process, "PROBE_TIMEOUT_S", 2.0)


def test_a_probe_that_hangs_is_reported_and_tried_again_on_the_next_run(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        hang_at(patched, tmp_path / "bin", "red-disc-right.mp4")
        snapshot = run_probe(bench)
    assert len(snapshot.samples) == len(CLIPS) - 1
    assert {r.path: r.reason for r in snapshot.rejections} == {
        "red-disc-right.mp4": "ffprobe did not finish within 2 s and was stopped; it is tried again on the "
        "next run"
    }
    request, stamp = find_result(PROBE, bench.ctx)
    assert stamp is None
    assert why_stale(bench.ctx.workspace, PROBE, request) == "1 files could not be judged in its last run"

    assert [file.name for file in unknown(bench)] == ["red-disc-right.mp4"]
    snapshot = run_probe(bench)
    assert (len(snapshot.samples), snapshot.rejections) == (len(CLIPS), ())
    assert find_result(PROBE, bench.ctx)[1] is not None


def unknown(bench: Bench) -> list[MediaFile]:
    ctx = bench.ctx
    return Memo(ctx).unknown(find_files(ctx))


def test_a_missing_programme_fails_the_stage_and_says_how_to_install_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        with pytest.raises(ToolMissing, match=r"ffprobe is not installed.*apt-get install ffmpeg"):
            bench.probe()
    assert newest_stamp(bench.ctx.workspace, PROBE) is None
    assert len(unknown(bench)) == len(CLIPS)
    assert len(bench.probe()[0].samples) == len(CLIPS)


def test_a_missing_ffmpeg_quarantines_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ffprobe").symlink_to(str(shutil.which("ffprobe")))
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(ToolMissing, match="ffmpeg is not installed"):
            bench.split()
    assert bench.split() > 0
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(ToolMissing, match="ffmpeg is not installed"):
            bench.encode()
    assert bench.encode()["video"] > 0
    assert encode_latents_quarantined(bench.ctx, LatentStore(bench.ctx.store)) == {}


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (
            "kill -KILL $$",
            r"ffprobe was killed \(signal 9\), perhaps because memory ran out; it is tried again",
        ),
        ("echo Cannot allocate memory >&2; exit 1", "ffprobe failed: Cannot allocate memory; it is tried"),
    ],
)
def test_a_programme_that_gets_no_memory_is_no_verdict(
    death: str, reason: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ffprobe").write_text(f"#!/bin/sh\n{death}\n")
    (tmp_path / "bin/ffprobe").chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        with pytest.raises(NothingToTrain, match=reason):
            bench.probe()
    assert len(unknown(bench)) == len(CLIPS)


def test_a_disk_that_fails_is_no_verdict_and_want_of_files_fails_the_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probe_media_memo_module.hash_file

    def failing(number: int) -> object:
        def hash_file(path: Path) -> str:
            if path.name == "twin.mov":
                raise OSError(number, "no luck")
            return whole(path)

        return hash_file

    with monkeypatch.context() as patched:
        patched.setattr(probe_media_memo_module, "hash_file", failing(errno.EIO))
        snapshot, _ = bench.probe()
    assert {r.path: r.reason for r in snapshot.rejections} == {
        "twin.mov": "cannot be read: no luck; it is tried again on the next run"
    }
    with monkeypatch.context() as patched:
        patched.setattr(probe_media_memo_module, "hash_file", failing(errno.EMFILE))
        with pytest.raises(OSError, match="no luck"):
            bench.probe()
    assert len(bench.probe()[0].samples) == len(CLIPS)


def test_a_decode_that_hangs_keeps_the_others_and_stops_the_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe()
    bench.split()
    with monkeypatch.context() as patched:
        patched.setattr(decode, "DECODE_TIMEOUT_S", 0.001)
        with pytest.raises(ClipsUndecided, match=r"(?s)0\.001 s and was stopped.*Run again") as caught:
            bench.encode()
    assert "clips/" in str(caught.value)
    ctx = bench.ctx
    assert encode_latents_quarantined(ctx, LatentStore(ctx.store)) == {}
    assert bench.encode()["video"] > 0


def test_a_folder_that_is_gone_is_reported_once(bench: Bench) -> None:
    bench.probe()
    bench.split()
    bench.clips.rename(bench.root / "moved")
    with pytest.raises(ClipsUndecided) as caught:
        bench.encode()
    text = str(caught.value)
    assert text.count("is gone") == 1
    assert f"the folder {bench.clips} is gone ({len(CLIPS)} clips)" in text
    assert "write its new place as instance_data_dir" in text
    assert "take them out" not in text
    (bench.root / "moved").rename(bench.clips)
    (bench.clips / "red-disc-right.mp4").unlink()
    with pytest.raises(ClipsUndecided, match=r"(?s)red-disc-right\.mp4: cannot be read now: .*take them out"):
        bench.encode()


def test_a_sound_that_hangs_keeps_the_others_and_stops_the_stage(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe()
    ctx, store = bench.ctx, WaveformStore(bench.ctx.store)
    waiting = split_audio_to_do(ctx, store)
    with monkeypatch.context() as patched:
        hang_at(patched, tmp_path / "bin", "red-disc-right.mp4")
        with pytest.raises(ClipsUndecided, match="1 clips could not be decoded"):
            bench.split()
    left = split_audio_to_do(bench.ctx, WaveformStore(bench.ctx.store))
    assert [cut.sample.path for cut in left] == ["red-disc-right.mp4"]
    assert len(waiting) > 1
    assert bench.split() == 1
