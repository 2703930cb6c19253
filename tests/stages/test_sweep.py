"""Sweeping, compacting and verifying a workspace with real stages' results in it."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.execution import sweep
from ltxcore.execution.execution import Execution, find_result, note_up_to_date
from ltxcore.execution.needed_keys import publish_needs
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, PROBE, TEXT, Stage
from ltxcore.pipeline.base.stamp import Outcome, stage_directory, why_stale
from ltxcore.stages.encode_latents.request import all_keys as encode_latents_all_keys
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.stages.probe_media.request import request as probe_media_request
from ltxcore.stages.probe_media.work import snapshot_outcome
from ltxcore.store import workspace as workspace_module
from ltxcore.store.blobs import write_json
from ltxcore.store.latents import LatentStore, orphans, row_of
from ltxcore.store.refs import Refs, workspace_of
from ltxcore.store.texts import TextStore
from ltxcore.store.verify import verify
from ltxcore.store.waveforms import WaveformStore
from ltxcore.store.workspace import Workspace
from tests.stages.conftest import Bench


def run_pipeline(bench: Bench, name: str) -> None:
    """The data stages with their stamps, as a run of that name."""
    run = bench.ctx.workspace.run(name)
    write_json(bench.ctx.workspace.runs / "newest.json", {"run": name})

    def stamp(stage: Stage, work: object, outcome: Outcome) -> None:
        ctx = bench.ctx
        request, found = find_result(stage, ctx)
        if found is not None:
            note_up_to_date(stage, ctx, found, run)
            return
        execution = Execution(stage, ctx, request, run)
        work()  # type: ignore[operator]
        execution.finish(outcome)

    ctx = bench.ctx
    execution = Execution(PROBE, ctx, probe_media_request(ctx), run)
    snapshot, probed = bench.probe()
    execution.finish(snapshot_outcome(snapshot, probed))
    stamp(AUDIO, bench.split, Outcome())
    stamp(LATENTS, bench.encode, Outcome())
    stamp(TEXT, bench.embed, Outcome())


def at_24_fps(bench: Bench) -> None:
    file = bench.root / "datasets.yaml"
    file.write_text(file.read_text().replace("num_frames: 17", "num_frames: 17, frame_rate: 24"))


@pytest.fixture(scope="module")
def two_runs(
    tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path
) -> tuple[Path, Bench]:
    """A workspace in which a run at 25 frames a second was followed by one at 24. Copy before changing it."""
    from ltxcore.config.recipe import Recipe
    from tests.stages.conftest import CLIPS, DATASETS

    root = tmp_path_factory.mktemp("two-runs")
    (root / "datasets.yaml").write_text(DATASETS)
    (root / "clips").mkdir()
    for name in CLIPS[:3]:
        shutil.copy2(sample_clips / name, root / "clips" / name)
        shutil.copy2(sample_clips / f"{name.split('.')[0]}.txt", root / "clips")
    shutil.copytree(tiny_models, root / "workspace" / "models")
    bench = Bench(root, Recipe())
    run_pipeline(bench, "slow-and-old")
    at_24_fps(bench)
    run_pipeline(bench, "new")
    return root, bench


@pytest.fixture
def swept(two_runs: tuple[Path, Bench]) -> Bench:
    """The workspace of the two runs, put back as it was: in its place, which tells it from others."""
    root, bench = two_runs
    saved = root.with_name("saved")
    if not saved.exists():
        shutil.copytree(root / "workspace", saved / "workspace")
        shutil.copy2(root / "datasets.yaml", saved)
    shutil.rmtree(root / "workspace")
    shutil.copytree(saved / "workspace", root / "workspace")
    shutil.copy2(saved / "datasets.yaml", root)
    return bench


def latents(bench: Bench) -> int:
    return len(LatentStore(bench.ctx.store).index)


def test_a_dry_run_names_what_would_go_and_changes_nothing(swept: Bench) -> None:
    before = sorted(p for p in swept.root.rglob("*") if p.is_file())
    result = CliRunner().invoke(app, ["gc", "--workspace", str(swept.root / "workspace"), "--days", "0"])
    assert result.exit_code == 0, result.output
    assert "would remove run runs/slow-and-old" in result.output
    assert "latents: would remove 5 samples that nothing needs and 5 files; 5 samples kept" in result.output
    assert "--apply" in result.output
    assert sorted(p for p in swept.root.rglob("*") if p.is_file()) == before


def test_what_is_young_is_kept(swept: Bench) -> None:
    assert sweep.plan(swept.ctx.workspace, 30).nothing


def test_what_is_needed_stays_however_old_it_is(swept: Bench) -> None:
    """The next day: everything is older than what is still at work, and nothing that is needed goes."""
    workspace, now = swept.ctx.workspace, time.time()
    for path in (workspace.root / "store").rglob("*"):
        os.utime(path, (now - 90_000, now - 90_000))
    place = ["--workspace", str(workspace.root)]
    result = CliRunner().invoke(app, ["gc", *place, "--days", "0", "--apply"])
    assert result.exit_code == 0, result.output
    kept = CliRunner().invoke(app, ["verify", *place])
    assert kept.exit_code == 0, kept.output
    assert verify(swept.ctx.store).checked == sum(count for _, count in parts(swept))
    assert all(count for _, count in parts(swept)), parts(swept)
    assert (swept.split(), swept.encode(), swept.embed()) == (0, {"video": 0, "audio": 0}, 0)


def parts(bench: Bench) -> list[tuple[str, int]]:
    """Committed samples whose bytes are there, by part."""
    blobs = bench.ctx.store
    stores = {"latents": LatentStore(blobs), "audio": WaveformStore(blobs), "text": TextStore(blobs)}
    found = []
    for part, store in stores.items():
        keys = [key for key, _ in store.index.items()]
        found.append((part, len(keys) - len(store.missing(keys))))
    return found


def test_a_sweep_takes_the_old_run_and_nothing_that_the_new_one_needs(swept: Bench) -> None:
    workspace = swept.ctx.workspace
    orphan = workspace.root / "store/latents/video/space/4x4/c.9.0.0"
    orphan.parent.mkdir(parents=True)
    for leftover in (orphan, orphan.with_name(".c.9.x.tmp"), workspace.runs / "new" / ".half.tmp"):
        leftover.write_bytes(b"half")
        os.utime(leftover, (time.time() - 7200, time.time() - 7200))
    done = sweep.apply(workspace, 0)
    assert [run.name for run in done.runs] == ["slow-and-old"]
    assert {path.parent.name for path in done.stages} == {PROBE.name, AUDIO.name, LATENTS.name}
    assert len(done.snapshots) == 1
    assert not orphan.exists()
    assert not list(workspace.root.rglob("*.tmp"))
    assert latents(swept) == 5
    assert (swept.split(), swept.encode(), swept.embed()) == (0, {"video": 0, "audio": 0}, 0)
    for stage in (PROBE, AUDIO, LATENTS, TEXT):
        assert find_result(stage, swept.ctx)[1] is not None, f"{stage.name} is up to date as before"
    assert verify(swept.ctx.store).broken == ()
    assert sweep.apply(workspace, 0).nothing
    # What was taken is made again when it is asked for again.
    file = swept.root / "datasets.yaml"
    file.write_text(file.read_text().replace(", frame_rate: 24", ""))
    swept.probe()
    assert (swept.split(), swept.encode()) == (2, {"video": 3, "audio": 2})


def test_a_pinned_run_keeps_all_that_it_needs(swept: Bench) -> None:
    place = ["--workspace", str(swept.root / "workspace")]
    result = CliRunner().invoke(app, ["gc", *place, "--days", "0", "--apply", "--keep", "slow-and-old"])
    assert result.exit_code == 0, result.output
    assert latents(swept) == 10
    assert sweep.plan(swept.ctx.workspace, 0).nothing, "a pin holds for later sweeps, too"
    unknown = CliRunner().invoke(app, ["gc", *place, "--keep", "nobody"])
    assert unknown.exit_code == 2
    assert "it has: new, slow-and-old" in unknown.output
    CliRunner().invoke(app, ["gc", *place, "--days", "0", "--apply", "--release", "slow-and-old"])
    assert latents(swept) == 5


def test_what_another_workspace_needs_is_kept_until_it_is_forgotten(swept: Bench, tmp_path: Path) -> None:
    """The other workspace shares the store and trains at 25 frames a second."""
    other = Bench(tmp_path / "other", swept.recipe)
    shutil.copytree(swept.clips, other.clips)
    shutil.copytree(swept.root / "workspace/models", other.root / "workspace/models")
    text = (swept.root / "datasets.yaml").read_text().replace(", frame_rate: 24", "")
    (other.root / "datasets.yaml").write_text(text)
    other.ctx.workspace.use_store(swept.ctx.workspace.store_url)
    run_pipeline(other, "first")
    assert latents(swept) == 10, "nothing was encoded twice"
    kept = sweep.apply(swept.ctx.workspace, 0)
    assert (latents(swept), list(kept.others)) == (10, [other.ctx.workspace.id])
    assert verify(other.ctx.store).broken == ()
    sweep.apply(swept.ctx.workspace, 0, forget=[other.ctx.workspace.id])
    assert latents(swept) == 5


def test_a_run_that_goes_on_keeps_its_folder_and_what_its_stages_have_noted(swept: Bench) -> None:
    ctx = swept.ctx
    run = ctx.workspace.run("slow-and-old")
    # Its last stage has told what it needs, and has written no stamp yet.
    request = {"of": "a stage that is at work"}
    publish_needs(ctx, LATENTS, request, {"latents": ["some-key"]})
    directory = ctx.workspace.relative(stage_directory(ctx.workspace, LATENTS, request))
    with ctx.workspace.going_on(run):
        # A probe-media at work leaves its pages before its stamp.
        at_work = ctx.workspace.stages / "probe-media/0123456789abcdef/dataset-report.csv"
        write_json(at_work, {})
        found = sweep.apply(ctx.workspace, 0)
        assert run not in found.runs
        assert at_work.exists()
        assert Refs(ctx.store).has(ctx.workspace.id, directory)
    assert run in sweep.apply(ctx.workspace, 0).runs
    assert not Refs(ctx.store).has(ctx.workspace.id, directory)


def test_a_slow_sweep_keeps_what_a_run_wrote_at_its_start(
    swept: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is set first; until a folder's turn comes, it has grown older by what the sweep took."""
    workspace = swept.ctx.workspace
    limit, now = sweep._before_s, time.time

    def slowly(space: Workspace, days: float) -> float:
        monkeypatch.setattr(time, "time", now)
        found = limit(space, days)
        monkeypatch.setattr(time, "time", lambda: now() + 60)
        return found

    with workspace.going_on(workspace.run("slow-and-old")):
        at_work = workspace.stages / "probe-media/fedcba9876543210/dataset-report.csv"
        write_json(at_work, {})
        monkeypatch.setattr(sweep, "_before_s", slowly)
        sweep.apply(workspace, 0)
        monkeypatch.setattr(time, "time", now)
        assert at_work.exists()


def test_a_run_that_begins_beside_a_sweep_waits_until_nothing_goes_any_more(
    swept: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = swept.ctx.workspace
    going, found, reached = workspace.run("slow-and-old"), [], threading.Event()
    monkeypatch.setattr(workspace_module, "_say_waiting", lambda holder: reached.set())

    def begin() -> None:
        with workspace.going_on(workspace.run("next")):
            found.append(going.exists())
            reached.set()

    beginner = threading.Thread(target=begin)
    whole = shutil.rmtree

    def removing(folder: Path) -> None:
        if not beginner.ident:
            beginner.start()
            assert reached.wait(60)
        whole(folder)

    monkeypatch.setattr(sweep.shutil, "rmtree", removing)
    sweep.apply(workspace, 0)
    beginner.join(60)
    assert found == [False]


def test_a_workspace_that_was_moved_keeps_what_it_stands_on(swept: Bench) -> None:
    swept.ctx.workspace.use_store(str(swept.root / "workspace/store"))
    before, latest = swept.ctx.workspace.id, latents(swept)
    store = swept.root / "workspace/store"
    moved = Bench(swept.root.with_name("moved"), swept.recipe)
    shutil.rmtree(moved.root, ignore_errors=True)
    shutil.copytree(swept.root, moved.root)
    moved.ctx.workspace.use_store(str(store))
    sweep.apply(moved.ctx.workspace, 0, forget=[before])
    assert 0 < latents(moved) < latest, "what the old run alone needed is gone"
    assert moved.encode() == {"video": 0, "audio": 0}
    # What is found up to date is told as this workspace's own need.
    run_pipeline(moved, "after-the-move")
    refs = Refs(moved.ctx.store)
    own = [name for name in refs.load() if workspace_of(name) == moved.ctx.workspace.id]
    assert len(own) == 3
    refs.drop([name for name in refs.load() if name not in own])
    sweep.apply(moved.ctx.workspace, 0)
    assert moved.encode() == {"video": 0, "audio": 0}


def test_a_damaged_reference_stops_the_sweep(swept: Bench) -> None:
    name = next(iter(Refs(swept.ctx.store).load()))
    (swept.root / "workspace/store" / name).write_text("{")
    result = CliRunner().invoke(app, ["gc", "--workspace", str(swept.root / "workspace")])
    assert result.exit_code == 2
    assert f"{name} in " in result.output
    assert "delete it and run the pipeline" in result.output


def test_compaction_leaves_one_segment_and_no_file_that_no_record_names(swept: Bench) -> None:
    sweep.apply(swept.ctx.workspace, 0)
    before = {
        key: LatentStore(swept.ctx.store).read(key).tobytes()
        for key in encode_latents_all_keys(swept.ctx, LatentStore(swept.ctx.store))
    }
    result = CliRunner().invoke(app, ["compact", "--workspace", str(swept.root / "workspace")])
    assert result.exit_code == 0, result.output
    store = LatentStore(swept.ctx.store)
    chunks = [name for name in swept.ctx.store.walk("latents") if row_of(name) is not None]
    assert chunks
    assert not orphans(chunks, store.arrays())
    for part in ("latents/index", "audio/index", "text/index", "media/files", "media/probes"):
        assert len(list((swept.root / "workspace/store" / part).glob("*.json"))) == 1
    assert {key: store.read(key).tobytes() for key in before} == before
    assert (swept.split(), swept.encode(), swept.embed()) == (0, {"video": 0, "audio": 0}, 0)
    assert verify(swept.ctx.store).broken == ()


def test_verify_names_the_broken_clip_and_repair_has_it_encoded_again(swept: Bench) -> None:
    place = ["--workspace", str(swept.root / "workspace")]
    spaces, sample = (
        spaces_of(swept.ctx, LatentStore(swept.ctx.store)),
        swept.ctx.snapshot.samples[0],
    )
    record = LatentStore(swept.ctx.store).index[spaces.video_key(sample).value]
    name = f"{record.array}/c.{record.row}" + ".0" * 4
    chunk = swept.root / "workspace/store" / name
    chunk.write_bytes(chunk.read_bytes()[::-1])
    result = CliRunner().invoke(app, ["verify", *place])
    assert result.exit_code == 1
    assert f"of {sample.id}: {name} is not what was written" in result.output
    assert swept.encode() == {"video": 0, "audio": 0}, "nobody reads what it does not need"
    repaired = CliRunner().invoke(app, ["verify", *place, "--repair"])
    assert "latents: 1 marked as missing" in repaired.output
    assert swept.encode() == {"video": 1, "audio": 0}
    assert CliRunner().invoke(app, ["verify", *place]).exit_code == 0


def test_a_damaged_index_is_reported_and_mended_by_verify(swept: Bench) -> None:
    place = ["--workspace", str(swept.root / "workspace")]
    segment = max((swept.root / "workspace/store/latents/index").iterdir())
    whole = segment.read_bytes()
    segment.write_bytes(whole[: len(whole) - 200])
    with_datasets = [*place, "--datasets", str(swept.root / "datasets.yaml")]
    for command in (["explain", *with_datasets], ["validate", *with_datasets], ["gc", *place]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, result.output
        assert f"latents/index/{segment.name}" in result.output
        assert "ltx2 verify --repair" in result.output
    result = CliRunner().invoke(app, ["verify", *place])
    assert result.exit_code == 1
    assert f"latents/index/{segment.name} is not what was written" in result.output
    assert CliRunner().invoke(app, ["verify", *place, "--repair"]).exit_code == 0
    assert 0 < sum(swept.encode().values()) < 9, "what could be read is not encoded again"
    assert CliRunner().invoke(app, ["verify", *place]).exit_code == 0


def test_a_damaged_stamp_is_none_and_another_file_says_what_to_do(swept: Bench) -> None:
    place = ["--workspace", str(swept.root / "workspace"), "--datasets", str(swept.root / "datasets.yaml")]
    request, stamp = find_result(LATENTS, swept.ctx)
    assert stamp is not None
    file = stage_directory(swept.ctx.workspace, LATENTS, request) / "stage.json"
    whole = file.read_text()
    file.write_text(whole[:-20])
    assert find_result(LATENTS, swept.ctx)[1] is None
    assert why_stale(swept.ctx.workspace, LATENTS, request) == "its last result is gone or damaged"
    snapshot = swept.ctx.workspace.snapshots / f"{swept.ctx.snapshot.id}.json"
    snapshot.write_text("{}")
    result = CliRunner().invoke(app, ["explain", *place])
    assert result.exit_code == 2, result.output
    assert f"{snapshot} is damaged" in result.output
    assert "delete it" in result.output
    file.write_text(whole)
    swept.ctx.workspace.store_file.write_text("")
    result = CliRunner().invoke(app, ["gc", *place[:2]])
    assert "`ltx2 use-store URL` writes it again" in result.output


def test_explain_on_the_command_line(swept: Bench) -> None:
    place = ["--workspace", str(swept.root / "workspace"), "--datasets", str(swept.root / "datasets.yaml")]
    result = CliRunner().invoke(app, ["explain", "clips/red-disc-right.mp4", *place, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["verdict"] == "in"
    assert [key["what"] for key in report["keys"]][:2] == ["video latents", "waveform"]
    assert {"media", "frames", "geometry", "vae", "dtype"} <= set(report["keys"][0]["inputs"])
    assert report["would_do"] == []
    assert (len(report["snapshots"]), report["runs"]) == (2, ["new", "slow-and-old"])
    stages = CliRunner().invoke(app, ["explain", *place])
    assert "encode-latents: up to date" in stages.output
    wrong = CliRunner().invoke(app, ["explain", "red-disk-right.mp4", *place])
    assert wrong.exit_code == 2
    assert "clips/red-disc-right.mp4" in wrong.output
