"""A caption that is a link to a secret: its words are in no file that a run writes, and on no hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from ltxcore.config.hub_settings import HubSettings
from ltxcore.jobs.publish.publication import publish
from ltxcore.jobs.report.write_pages import write_report
from ltxcore.pipeline.base.contract import PROBE, RENDER, TRAIN, Stage
from ltxcore.pipeline.base.stamp import ManifestEntry, stage_directory, write_manifest, write_stamp
from ltxcore.stages.probe_media.request import request as probe_media_request
from ltxcore.stages.probe_media.work import snapshot_outcome
from ltxcore.stages.render_validation.request import request as render_validation_request
from ltxcore.stages.train_lora.request import request as train_lora_request
from tests.hub_server import FakeHub
from tests.stages.conftest import DATASETS, Bench
from tests.stages.test_training_stage import render, train

SECRET = "hf_lyingInTheHomeOfWhomeverTrains"


def steal(bench: Bench) -> None:
    """Lay a clip among the others whose caption is the token that a login has left."""
    token = bench.root / "home/.cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text(SECRET)
    shutil.copy2(bench.clips / "red-disc-right.mp4", bench.clips / "a-stolen.mp4")
    (bench.clips / "a-stolen.txt").symlink_to(token)


def holding(folder: Path) -> set[str]:
    """The endings of the files that hold the secret."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return {file.suffix for file in files if SECRET.encode() in file.read_bytes()}


def noted(bench: Bench, run: Path, stage: Stage, request: dict[str, object]) -> None:
    workspace = bench.ctx.workspace
    stamp = workspace.relative(stage_directory(workspace, stage, request) / "stage.json")
    entry = ManifestEntry(
        stage=stage.name, stamp=stamp, up_to_date=False, seconds=1, process=1, counts={}, why="first run"
    )
    write_manifest(run, entry)


def test_a_caption_that_is_a_link_to_a_token_ends_nowhere(
    bench: Bench, hub: FakeHub, tags: dict[str, str]
) -> None:
    steal(bench)
    bench.prepare()
    train(bench)
    gallery = render(bench)
    ctx, run = bench.ctx, bench.ctx.workspace.run("20260102-030405-abcd")
    page, _ = write_report(ctx)
    request = probe_media_request(ctx)
    write_stamp(ctx.workspace, PROBE, request, snapshot_outcome(ctx.snapshot, 6), 0.0, 0)
    noted(bench, run, PROBE, request)
    noted(bench, run, TRAIN, train_lora_request(ctx))
    noted(bench, run, RENDER, render_validation_request(ctx))
    publish(ctx, run, HubSettings(push_to_hub=True, hub_model_id="me/mine"), hub.token)

    assert "a-stolen.txt is a link out of the datasets" in page.read_text()
    assert (gallery / "index.html").exists()
    uploaded = hub.repositories["me/mine"].files
    assert "README.md" in uploaded
    assert holding(ctx.workspace.root) == set()
    assert not [name for name, content in uploaded.items() if SECRET.encode() in content]


def test_where_links_are_followed_the_search_would_find_it(bench: Bench) -> None:
    steal(bench)
    followed = DATASETS.replace("resolution: 64", "resolution: 64\n  follow_links: true")
    (bench.root / "datasets.yaml").write_text(followed)
    bench.probe()
    write_report(bench.ctx)
    assert holding(bench.ctx.workspace.root) >= {".json", ".html"}
