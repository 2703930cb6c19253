"""A dataset that changes under the run: nothing false is stored or condemned, and the next run mends it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.data.content_guard import ContentGuard
from ltxcore.stages.encode_latents.request import quarantined as encode_latents_quarantined
from ltxcore.stages.split_audio.request import to_do
from ltxcore.store.latents import LatentStore
from ltxcore.store.waveforms import WaveformStore
from tests.stages.conftest import Bench, make_bench
from tests.stages.dataset_changes import CHANGES, CLIP, OTHER, Saved, replace, unmount, what_is_named


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """A bench whose contents are probed: its copies only hash their files."""
    made = make_bench(tmp_path_factory.mktemp("probed"), sample_clips, tiny_models)
    made.probe()
    return made


@pytest.fixture
def bench(probed: Bench, tmp_path: Path) -> Bench:
    """A copy of it."""
    shutil.copytree(probed.root, tmp_path / "bench")
    return Bench(tmp_path / "bench", probed.recipe)


@pytest.fixture
def saved(bench: Bench) -> Saved:
    """The dataset as it is at first."""
    return Saved(bench)


def latents(bench: Bench) -> dict[str, bytes]:
    store = LatentStore(bench.ctx.store)
    return {key: store.read(key).tobytes() for key, _ in store.index.items()}


def sounds(bench: Bench) -> dict[str, bytes]:
    store = WaveformStore(bench.ctx.store)
    return {key: store.read(key).tobytes() for key, _ in store.index.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """What a run without trouble makes."""
    bench = make_bench(tmp_path_factory.mktemp("undisturbed"), sample_clips, tiny_models)
    bench.probe()
    bench.split()
    bench.encode()
    return bench


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_the_probe_and_the_sound_is_no_verdict_and_is_mended(
    bench: Bench, saved: Saved, undisturbed: Bench, change: Callable[[Bench], None]
) -> None:
    bench.probe()
    change(bench)
    with pytest.raises(ClipsUndecided, match=what_is_named(change, bench)):
        bench.split()
    left = {cut.sample.path for cut in to_do(bench.ctx, WaveformStore(bench.ctx.store))}
    assert CLIP in left
    assert change is unmount or len(left) == 1, "the others are committed"
    saved.restore()
    bench.probe()
    assert bench.split() == len(left)
    assert sounds(bench) == sounds(undisturbed)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_the_sound_and_the_latents_is_no_verdict_and_is_mended(
    bench: Bench, saved: Saved, undisturbed: Bench, change: Callable[[Bench], None]
) -> None:
    bench.probe()
    bench.split()
    change(bench)
    with pytest.raises(ClipsUndecided, match=what_is_named(change, bench)):
        bench.encode()
    store = LatentStore(bench.ctx.store)
    assert encode_latents_quarantined(bench.ctx, store) == {}
    assert latents(bench).items() < latents(undisturbed).items()
    saved.restore()
    bench.probe()
    bench.split()
    bench.encode()
    assert latents(bench) == latents(undisturbed)


def pictures(bench: Bench) -> dict[str, bytes]:
    """The latents of pictures alone: a sound is encoded from the store, not from the dataset."""
    index = LatentStore(bench.ctx.store).index
    return {key: bits for key, bits in latents(bench).items() if index[key].inputs["kind"] == "video"}


@pytest.mark.parametrize("stage", ["split-audio", "encode-latents"])
def test_a_clip_that_is_restored_after_the_probe_is_not_taken_for_what_it_was(
    bench: Bench, saved: Saved, undisturbed: Bench, stage: str
) -> None:
    """The probe saw another content; its key must not get what the file holds by then."""
    saved.make_another()
    bench.probe()
    if stage == "encode-latents":
        bench.split()
    saved.restore()
    with pytest.raises(ClipsUndecided, match=f"{CLIP}: holds another content"):
        bench.split() if stage == "split-audio" else bench.encode()
    assert pictures(bench).items() < pictures(undisturbed).items()
    assert encode_latents_quarantined(bench.ctx, LatentStore(bench.ctx.store)) == {}
    bench.probe()
    bench.split()
    bench.encode()
    assert pictures(bench) == pictures(undisturbed)
    assert sounds(undisturbed).items() <= sounds(bench).items()
    assert latents(undisturbed).items() <= latents(bench).items()


def test_a_clip_that_is_replaced_while_it_is_decoded_is_not_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe()
    whole = ContentGuard.read

    def read(
        self: ContentGuard, dataset: str, name: str, media_id: str, decode: Callable[[Path], object]
    ) -> object:
        def slowly(path: Path) -> object:
            result = decode(path)
            if name == CLIP:
                replace(bench)
            return result

        return whole(self, dataset, name, media_id, slowly)

    with monkeypatch.context() as patched:
        patched.setattr(ContentGuard, "read", read)
        with pytest.raises(ClipsUndecided, match="was changed while it was read"):
            bench.split()
    assert [cut.sample.path for cut in to_do(bench.ctx, WaveformStore(bench.ctx.store))] == [CLIP]


def test_a_replaced_clip_is_taken_as_what_it_is_by_the_next_run(bench: Bench) -> None:
    bench.probe()
    replace(bench)
    snapshot, _ = bench.probe()
    contents = {sample.path: sample.media_id for sample in snapshot.samples}
    assert contents[CLIP] == contents[OTHER]
    bench.split()
    bench.encode()


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        ("kill -SEGV $$", "died of signal 11"),
        ("kill -ILL $$", "died of signal 4"),
        ("echo libx.so.5: cannot open shared object file >&2; exit 127", "cannot be run .*libx.so.5"),
        ("exit 126", "cannot be run"),
        ("exit 1", "ended with status 1 and no message"),
    ],
)
@pytest.mark.parametrize("tool", ["ffmpeg", "ffprobe"])
def test_a_tool_that_dies_condemns_no_clip(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, death: str, reason: str
) -> None:
    bench.probe()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / tool).write_text(f"#!/bin/sh\n{death}\n")
    (tmp_path / "bin" / tool).chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path / "bin"), prepend=":")
        with pytest.raises(ClipsUndecided, match=reason):
            bench.split()
    assert all(WaveformStore(bench.ctx.store).error(key) is None for key in sounds(bench))
    assert bench.split() > 0


def test_retry_lifts_a_quarantine_and_the_next_run_tries_the_clip_again(
    bench: Bench, undecodable: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe()
    bench.split()
    with monkeypatch.context():
        undecodable(CLIP)
        bench.encode()
    monkeypatch.undo()
    assert set(encode_latents_quarantined(bench.ctx, LatentStore(bench.ctx.store))) == {f"clips/{CLIP}"}
    assert bench.encode() == {"video": 0, "audio": 0}
    place = ["--workspace", str(bench.root / "workspace")]
    for wrong in (["retry", *place], ["retry", CLIP, "--quarantined", *place]):
        assert CliRunner().invoke(app, wrong).exit_code == 2
    unknown = CliRunner().invoke(app, ["retry", "red-disc-rigth.mp4", *place])
    assert f"clips/{CLIP}" in unknown.output
    result = CliRunner().invoke(app, ["retry", CLIP, *place])
    assert result.output.strip() == f"clips/{CLIP}: the next run tries it again"
    assert bench.encode()["video"] == 1
    assert "nothing is quarantined" in CliRunner().invoke(app, ["retry", "--quarantined", *place]).output
