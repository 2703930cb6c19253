"""`from ltxcore import Job`: the whole pipeline in a process without Prefect, with equal results."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltxcore import Job
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.execution.execution import find_result
from ltxcore.pipeline.base.contract import STAGES, TRAIN, MissingInput, asked_stages
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp
from ltxcore.store.workspace import UnknownSnapshot
from tests.stages.conftest import Bench, make_bench

WHOLE_JOB = """
import json, sys
from pathlib import Path
from ltxcore import Job

root = Path(sys.argv[1])
assert not {"torch", "prefect"} & set(sys.modules), "importing the library is light"
job = Job(root / "workspace", root / "datasets.yaml", root / "recipe.json", run="by-job")
rows = job.run_all()
assert "prefect" not in sys.modules
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """A bench whose whole job was run by `Job`, in a process of its own."""
    bench = make_bench(tmp_path_factory.mktemp("job"), sample_clips, tiny_models)
    validation = bench.recipe.validation.model_copy(update={"validation_num_inference_steps": 2})
    bench = Bench(bench.root, bench.recipe.model_copy(update={"validation": validation}))
    (bench.root / "recipe.json").write_text(bench.recipe.model_dump_json())
    ran = subprocess.run(
        [sys.executable, "-c", WHOLE_JOB, str(bench.root)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout.splitlines()[-1])
    assert [row["stage"] for row in rows] == [stage.name for stage in asked_stages(bench.recipe)]
    return bench


def job_of(bench: Bench, run: str = "again") -> Job:
    return Job(bench.root / "workspace", bench.root / "datasets.yaml", bench.recipe, run=run)


def test_another_job_finds_every_stage_up_to_date(done: Bench) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done.root / "workspace/stages").rglob("*.*")}
    rows = job_of(done).run_all()
    assert {row["state"] for row in rows} == {"up to date"}
    after = {path: path.stat().st_mtime_ns for path in before}
    report = {path for path in before if path.name == "dataset-report.html"}
    assert {path for path in before if before[path] != after[path]} <= report


def test_another_job_goes_on_from_the_lora_that_this_one_left(done: Bench) -> None:
    """Through all stages: what was made is found, and the training begins where the first one ended."""
    (left,) = (done.root / "workspace/stages/train-lora").glob("*/lora/pytorch_lora_weights.safetensors")
    one_step = {"max_train_steps": 1, "lr_warmup_steps": 0, "learning_rate": 1e-5}
    recipe = done.recipe.model_copy(
        update={
            "lora": LoraSettings.model_validate({**done.recipe.lora.model_dump(), "init_from": str(left)}),
            "training": done.recipe.training.model_copy(update=one_step),
        }
    )
    job = Job(done.root / "workspace", done.root / "datasets.yaml", recipe, run="goes-on")
    states = {row["stage"]: row["state"] for row in job.run_all()}
    anew = {name for name, state in states.items() if state != "up to date"}
    assert anew <= {"train-lora", "render-validation"}, states
    entry = read_manifest(job.workspace.run("goes-on"), TRAIN)
    assert entry is not None
    assert not entry.up_to_date
    stamp = read_stamp(job.workspace, entry)
    (file,) = (f for f in stamp.outcome.files if f.path.endswith("pytorch_lora_weights.safetensors"))
    before, after = load_file(left), load_file(job.workspace.root / file.path)
    names = [name for name in before if "lora_B" in name]
    moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in names))
    whole = math.sqrt(sum(float(before[name].square().sum()) for name in names))
    # From zero one small step could not come near what six steps left.
    assert 0 < moved < 0.5 * whole


def test_a_flow_finds_every_stage_up_to_date(done: Bench) -> None:
    """What a flow asks: its context, from its parameters, and the stages' results for it."""
    from tasks import stage as tasks_stage

    root = done.root
    ctx = tasks_stage.context(
        str(root / "workspace"),
        str(root / "recipe.json"),
        pipeline_run="by-flow",
        datasets=str(root / "datasets.yaml"),
    )
    for stage in asked_stages(done.recipe):
        assert tasks_stage.open_stage(stage, ctx, "by-flow") is None, stage.name
        entry = read_manifest(ctx.workspace.run("by-flow"), stage)
        assert entry is not None
        assert entry.up_to_date


def test_it_shows_what_there_is(done: Bench) -> None:
    job = job_of(done, "shown")
    clip = next(sample for sample in job.samples() if sample.audio is not None and sample.kind == "video")
    latents = job.latents(clip)
    assert (latents["video"].ndim, latents["audio"].ndim) == (4, 2)
    assert torch.equal(job.latents(clip.id)["video"], latents["video"])
    features = job.features(clip.captions[0])
    assert features.video.ndim == 2
    assert [row["stage"] for row in job.plan()] == [s.name for s in asked_stages(done.recipe) if s.models]
    assert job.report().is_file()
    steps = done.recipe.training.max_train_steps
    assert [metrics.step for metrics in job.losses()] == list(range(1, steps + 1))
    assert {path.suffix for path in job.loras()} == {".safetensors"}
    assert job.gallery().is_file()
    with pytest.raises(LookupError, match=r"no clip is 'clips/blue-box-ub\.mp4'; did you mean"):
        job.latents("clips/blue-box-ub.mp4")
    with pytest.raises(MissingInput, match="embed-text"):
        job.features("a caption that nobody has written")


def test_a_recipe_that_renders_nothing_has_no_gallery(done: Bench) -> None:
    validation = done.recipe.validation.model_copy(update={"validation_disable": True})
    job = job_of(Bench(done.root, done.recipe.model_copy(update={"validation": validation})), "unseen")
    assert job.run("render-validation").outcome.counts["renderings"] == 0
    with pytest.raises(RuntimeError, match="validation_disable is set"):
        job.gallery()


def test_one_stage_says_which_one_has_to_run_first(bench: Bench) -> None:
    job = job_of(bench)
    with pytest.raises(UnknownSnapshot, match="no snapshot yet; the stage probe-media makes one"):
        job.samples()
    with pytest.raises(MissingInput, match="probe-media"):
        job.run("split-audio")
    stamp = job.run("probe-media")
    assert stamp.outcome.facts["snapshot"] == job.snapshot.id
    assert find_result(STAGES[0], bench.ctx)[1] == stamp
    with pytest.raises(MissingInput, match="encode-latents"):
        job.latents(job.samples()[0])
    with pytest.raises(RuntimeError, match=f"{TRAIN.name} has no result yet"):
        job.loras()
