"""`ltx2 run`, the whole pipeline embedded: processes apart, a LoRA that learned, a second run idle."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from bench.toy.content import Content, hue_distance, measure_content
from bench.toy.judge import Painter
from flows.server import LocalServer
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.media import glimmer
from ltxcore.media.samples import make_samples
from ltxcore.models.files.source import resolve_model
from ltxcore.pipeline.base.contract import asked_stages
from ltxcore.pipeline.base.stamp import read_manifest, read_stamp
from ltxcore.stages.train_lora.sample_steps import reached_step
from ltxcore.store.blobs import read_json
from ltxcore.store.workspace import Workspace
from tests.e2e.readme import ROOT, readme
from tests.e2e.serving import until
from tests.e2e.stage_processes import stages_among
from tests.hub_server import fake_hub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
# Of a recipe without CREPA.
STAGES = asked_stages(Recipe())
HITS = (23, 19, 39, 25, 400, 8)
"""Of each stage, once all is done."""


def ltx2(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"ltx2 {' '.join(arguments)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `make run` does: datasets.yaml as shipped but for the directory, and the toy's recipe."""
    folder = tmp_path_factory.mktemp("embedded")
    make_samples(folder / "clips", "glimmer")
    datasets = (ROOT / "datasets.yaml").read_text()
    assert "datasets/glimmer" in datasets
    (folder / "datasets.yaml").write_text(datasets.replace("datasets/glimmer", str(folder / "clips")))
    shutil.copy2(ROOT / "deploy/recipes/toy.yaml", folder / "recipe.yaml")
    return {
        "--workspace": str(folder / "workspace"),
        "--datasets": str(folder / "datasets.yaml"),
        "--recipe": str(folder / "recipe.yaml"),
    }


def options(job: dict[str, str]) -> list[str]:
    return [word for pair in job.items() for word in pair]


def _with(command: list[str], job: dict[str, str]) -> list[str]:
    """The words of an `ltx2` command of the README, with this job's files for its own."""
    words = command[1:]
    return [job.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def newest(job: dict[str, str]) -> tuple[Workspace, Path]:
    workspace = Workspace(job["--workspace"])
    return workspace, workspace.run(read_json(workspace.runs / "newest.json")["run"])


@pytest.fixture(scope="module")
def first_run(job: dict[str, str]) -> str:
    """`make run`, as a person types it, but for the names of files."""
    settings = [f"{name.removeprefix('--').upper()}={value}" for name, value in job.items()]
    # Threads of the environment, as a batch system sets them, are none of a stage's.
    done = subprocess.run(
        [*readme("make run"), *settings],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Idle:
    """A run with nothing to do: what it printed, and the logs before and after it, by size."""

    told: str
    before: dict[str, int]
    after: dict[str, int]


@pytest.fixture(scope="module")
def idle(first_run: str, job: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Idle:
    """`make run` once more, where whoever imports torch fails."""
    trap = tmp_path_factory.mktemp("trap")
    (trap / "torch.py").write_text("raise ImportError('a run with nothing to do has no need of torch')\n")
    before = log_sizes(job)
    told = ltx2("run", *options(job), PYTHONPATH=str(trap)).stdout
    return Idle(told, before, log_sizes(job))


def log_sizes(job: dict[str, str]) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in Workspace(job["--workspace"]).logs.iterdir()}


@pytest.fixture(scope="module")
def served(idle: Idle, job: dict[str, str]) -> Iterator[None]:
    """A server of the workspace that stays, so that not every command has to start one."""
    with LocalServer(job["--workspace"]):
        yield


def test_the_first_run_does_every_stage_in_a_process_of_its_own(first_run: str, job: dict[str, str]) -> None:
    workspace, run = newest(job)
    entries = [read_manifest(run, stage) for stage in STAGES]
    for stage in STAGES:
        assert f"{stage.name}: started\n" in first_run, "a pipe has progress lines, too"
        assert f"{stage.name}: done in " in first_run
    assert all(entry is not None and not entry.up_to_date for entry in entries)
    processes = {entry.process for entry in entries if entry is not None}
    parent = read_json(run / "parent.json")
    assert len(processes | {parent["process"]}) == len(STAGES) + 1
    assert parent["peak_rss_bytes"] < 300 << 20, "a parent of this size cannot have imported torch"
    stamps = [read_stamp(workspace, entry) for entry in entries if entry is not None]
    assert all(stamp.peak_rss_bytes > 50 << 20 for stamp in stamps)
    assert {stamp.outcome.threads for stamp in stamps} == {1}, "the toy's parts are small"
    training = next(stamp.outcome.facts["directory"] for stamp in stamps if stamp.stage == "train-lora")
    assert read_json(workspace.root / training / "resume.json")["threads"] == 1, "what torch itself says"


def test_its_summary_says_what_was_made_and_where(first_run: str, job: dict[str, str]) -> None:
    assert "20 taken in 3 buckets, 3 rejected, 0 quarantined" in first_run
    for reason in ("has no caption", "is not a video", "is too short"):
        assert reason in first_run
    assert " -> " in next(line for line in first_run.splitlines() if line.startswith("Loss"))
    gallery = next(line for line in first_run.splitlines() if line.startswith("Gallery")).split()[1]
    assert Path(gallery).is_file()
    videos = sorted(Path(gallery).parent.glob("*.mp4"))
    assert len(videos) == 8
    for video in videos:
        probe = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "json", str(video)]
        streams = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["streams"]
        assert [s["codec_name"] for s in streams] == ["h264", "aac"]


def loras(job: dict[str, str]) -> list[Path]:
    workspace, run = newest(job)
    entry = read_manifest(run, next(s for s in STAGES if s.name == "train-lora"))
    assert entry is not None
    files = [workspace.root / f.path for f in read_stamp(workspace, entry).outcome.files]
    return [f for f in files if f.suffix == ".safetensors"]


def test_both_lora_files_load_back_with_equal_output(first_run: str, job: dict[str, str]) -> None:
    files = loras(job)
    assert len(files) == 2
    recipe = load_recipe(Path(job["--recipe"]))
    painter = Painter(resolve_model(recipe.model, Path(job["--workspace"])), recipe.validation)

    def frames() -> np.ndarray:
        return painter.draw("any", "A glimmer circle moves up. A tone sounds.").frames.astype(np.float32)

    base = frames()
    with painter.renderer.adapter(files[0]):
        one = frames()
    with painter.renderer.adapter(files[1]):
        other = frames()
    assert np.abs(one - base).mean() > 1, "the LoRA does something"
    # One file is float32 and the other bf16.
    assert np.abs(one - other).mean() < 0.1 * np.abs(one - base).mean()


def rendered(first_run: str, name: str, side: str) -> Content:
    """What a video of the gallery shows and sounds like."""
    gallery = next(line for line in first_run.splitlines() if line.startswith("Gallery")).split()[1]
    video = str(Path(gallery).parent / f"{name}-{side}.mp4")

    def decoded(*how: str) -> bytes:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", video, *how, "-"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    frames = np.frombuffer(decoded("-f", "rawvideo", "-pix_fmt", "rgb24"), np.uint8).reshape(-1, 96, 96, 3)
    sound = np.frombuffer(decoded("-f", "f32le", "-ar", "24000", "-ac", "2"), np.float32).reshape(-1, 2).T
    return measure_content(frames, sound, 24_000)


@pytest.mark.parametrize(("name", "way"), [("glimmer-circle", "left"), ("glimmer-square", "right")])
def test_the_lora_draws_its_word_where_the_base_cannot(first_run: str, name: str, way: str) -> None:
    base, lora = rendered(first_run, name, "base"), rendered(first_run, name, "lora")
    purple = Content(glimmer.PURPLE, None, None).hue_deg
    assert purple is not None
    assert lora.hue_deg is not None
    assert base.hue_deg is not None, "the base draws a shape, of a colour that it knows"
    # 281 of the circle: blue, the nearest colour that the toy knows, is 56 degrees away. Measured: up to 17.
    assert hue_distance(purple, lora.hue_deg) < 30
    assert hue_distance(lora.hue_deg, base.hue_deg) > 60
    assert lora.way == base.way == way, "neither clip was among the LoRA's"
    assert lora.pitch_hz is not None
    assert base.pitch_hz is not None
    assert abs(12 * math.log2(lora.pitch_hz / glimmer.PITCH_HZ)) < 1, "within a semitone"
    assert base.tone is not None, "the base sounds one of its own tones"


@pytest.mark.parametrize("side", ["base", "lora"])
def test_what_the_base_can_draw_it_still_draws(first_run: str, side: str) -> None:
    for name, wanted in {
        "red-square": ("red", "left", "low"),
        "green-triangle": ("green", "down", "high"),
    }.items():
        found = rendered(first_run, name, side)
        assert (found.colour, found.way, found.tone) == wanted


def test_a_run_with_nothing_to_do_starts_nothing(idle: Idle, job: dict[str, str]) -> None:
    assert idle.told.count("up to date") >= 2 * len(STAGES)
    _, run = newest(job)
    entries = [read_manifest(run, stage) for stage in STAGES]
    assert all(entry is not None and entry.up_to_date for entry in entries)
    processes = {entry.process for entry in entries if entry is not None}
    assert processes == {read_json(run / "parent.json")["process"]}, "all was found by one process"
    assert idle.before == idle.after, "a stage's process, the parent flow's and a server each write a log"


def test_the_history_of_runs_without_a_server_is_seen_by_the_next_one(
    served: None, job: dict[str, str]
) -> None:
    from prefect import get_client

    with get_client(sync_client=True) as client:

        def ask(what: str) -> list[dict[str, Any]]:
            return client.request("POST", f"/{what}/filter", json={}).raise_for_status().json()

        flows = {flow["id"]: flow["name"] for flow in ask("flows")}
        runs = sorted(ask("flow_runs"), key=lambda run: run["start_time"])
        names = [flows[run["flow_id"]] for run in runs]
        assert names == ["train-ltx2", *(stage.name for stage in STAGES), "train-ltx2"]
        assert {run["state_name"] for run in runs} == {"Completed"}
        for whole in (runs[0], runs[-1]):
            of_run = [artifact for artifact in ask("artifacts") if artifact["flow_run_id"] == whole["id"]]
            tables = {table["key"]: json.loads(table["data"]) for table in of_run if table["type"] == "table"}
            assert [row["stage"] for row in tables["summary"]] == [stage.name for stage in STAGES]
            assert tables["memory"]
            links = {link["key"]: link["data"] for link in of_run if link["type"] == "markdown"}
            assert links["render-validation-index"].startswith("[index.html](file://")
        lines = [line["message"] for line in ask("logs") if line["flow_run_id"] == runs[-1]["id"]]
        assert lines == [
            f"{stage.name} is up to date: {hits} hits" for stage, hits in zip(STAGES, HITS, strict=True)
        ]


def test_a_second_run_does_no_work(served: None, job: dict[str, str]) -> None:
    before = {path for path in Workspace(job["--workspace"]).stages.rglob("*") if path.is_file()}
    command = readme("ltx2 run --datasets datasets.yaml --recipe deploy/recipes/toy.yaml")
    second = ltx2(*_with(command, job), "--workspace", job["--workspace"]).stdout
    _, run = newest(job)
    entries = [entry for stage in STAGES if (entry := read_manifest(run, stage)) is not None]
    assert len(entries) == len(STAGES)
    assert all(entry.up_to_date and entry.counts["done"] == 0 for entry in entries)
    assert tuple(entry.counts["hits"] for entry in entries) == HITS
    assert second.count("up to date") >= len(STAGES)
    assert {path for path in Workspace(job["--workspace"]).stages.rglob("*") if path.is_file()} == before


def test_one_stage_runs_alone_and_says_what_it_misses(
    served: None, job: dict[str, str], tmp_path: Path
) -> None:
    command = readme("ltx2 stage encode-latents")[1:]
    alone = ltx2(*command, "--workspace", job["--workspace"], "--recipe", job["--recipe"])
    assert "up to date" in alone.stdout
    assert "Clips    0 quarantined" in alone.stdout
    (tmp_path / "empty/store").mkdir(parents=True)
    empty = ltx2("stage", "encode-latents", "--workspace", str(tmp_path / "empty"), check=False)
    assert empty.returncode == 1
    assert "run the stage probe-media first" in empty.stdout
    unknown = ltx2("stage", "encode-latent", check=False)
    assert unknown.returncode == 2
    assert "did you mean `encode-latents`" in unknown.stderr


def test_a_broken_dataset_file_is_refused_before_anything_starts(job: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(Path(job["--datasets"]).read_text().replace("min_frames", "min_frame"))
    done = ltx2("run", "--datasets", str(broken), "--workspace", str(tmp_path / "ws"), check=False)
    assert done.returncode == 2
    assert (
        "broken.yaml:15: glimmer: 0.video.min_frame: is not a known key; did you mean `min_frames`"
        in done.stderr
    )
    assert not (tmp_path / "ws").exists()


def test_datasets_of_which_nothing_is_left_have_a_report_that_says_why(served: None, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/talk.mp4").write_text("no video")
    entries = [
        {"id": "mine", "dataset_type": "video", "instance_data_dir": "clips"},
        {"id": "text", "dataset_type": "text_embeds"},
    ]
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump(entries))
    places = {"--workspace": "workspace", "--datasets": "datasets.yaml"}
    words = [word for name, place in places.items() for word in (name, str(tmp_path / place))]
    done = ltx2("stage", "probe-media", *words, check=False)
    assert done.returncode == 1
    assert "talk.mp4: is not a video that can be read" in done.stdout
    page = Path(
        next(line for line in done.stdout.splitlines() if line.startswith("File by file")).split(": ")[1]
    )
    assert "is not a video that can be read" in page.read_text()


def test_validate_and_doctor_say_that_all_is_well(job: dict[str, str]) -> None:
    command = readme("ltx2 validate --datasets datasets.yaml --recipe deploy/recipes/toy.yaml")
    assert "are valid" in ltx2(*_with(command, job)).stdout
    output = ltx2(*readme("ltx2 doctor")[1:]).stdout
    assert "ffprobe" in output
    assert "missing" not in output


def test_a_finished_run_that_is_asked_to_publish_does_nothing_but_upload(
    served: None, job: dict[str, str]
) -> None:
    recipe = Path(job["--workspace"]).parent / "published.yaml"
    with fake_hub() as hub:
        access = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": hub.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }

        section = "\nhub: {push_to_hub: true, hub_model_id: my-lora}\n"
        recipe.write_text(Path(job["--recipe"]).read_text() + section)
        again = ltx2("run", *options({**job, "--recipe": str(recipe)}), **access).stdout
        assert again.count("up to date") >= len(STAGES)
        repository = hub.repositories["me/my-lora"]
        assert f"Hub      {hub.url}/me/my-lora/commit/{repository.sha}" in again
        videos = {name for name in repository.files if name.endswith(".mp4")}
        assert len(videos) == 8, "of each prompt that the recipe names, the base's and the LoRA's"
        assert ModelCard(repository.files["README.md"].decode()).data.library_name == "diffusers"
        commits = len(repository.commits)
        pushed = ltx2("push", "--workspace", job["--workspace"], **access).stdout
        assert "me/my-lora: the hub has all of it already" in pushed
        assert len(repository.commits) == commits
    workspace, _ = newest(job)
    tags = json.loads(next((workspace.stages / "train-lora").glob("*/mlflow.json")).read_text())["delivered"][
        "tags"
    ]
    assert (tags["hub.repo"], tags["hub.commit"]) == ("me/my-lora", repository.sha)
    kept = [file for file in workspace.root.rglob("*") if file.is_file()]
    assert not [file for file in kept if hub.token.encode() in file.read_bytes()]


def test_ctrl_c_writes_a_checkpoint_and_the_next_run_continues(served: None, job: dict[str, str]) -> None:
    folder = Path(job["--workspace"]).parent
    recipe = Path(job["--recipe"]).read_text().replace("max_train_steps: 400", "max_train_steps: 4000")
    (folder / "long.yaml").write_text(recipe.replace("step_interval: 100", "step_interval: 4000"))
    long = {**job, "--recipe": str(folder / "long.yaml")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", *options(long)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    trainings = Workspace(job["--workspace"]).stages / "train-lora"
    deadline = time.monotonic() + 600
    while not (lines := _lines(trainings)) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert lines
    stopped = next(p for p in trainings.iterdir() if p.is_dir() and not (p / "stage.json").exists())
    step = reached_step(stopped)
    assert step, "a stopped training leaves its checkpoint"
    assert f"Stopped in train-lora: its checkpoint is at step {step}. " in output
    assert "run the same command again" in output
    assert "did not complete" not in output
    logs = sorted((trainings.parents[1] / "logs").glob("train-lora-*.log"), key=lambda p: p.stat().st_mtime)
    assert f"train-lora: stopped, its checkpoint is at step {step}" in logs[-1].read_text()
    assert "train-lora: changed: training.max_train_steps 400 -> 4000" in logs[-1].read_text()
    assert "Traceback" not in logs[-1].read_text()
    _check_no_child_of(trainings)
    shutil.rmtree(stopped)


def _lines(trainings: Path) -> int:
    unfinished = [p for p in trainings.iterdir() if p.is_dir() and not (p / "stage.json").exists()]
    files = [folder / "metrics.jsonl" for folder in unfinished]
    return sum(len(f.read_text().splitlines()) for f in files if f.exists())


def _check_no_child_of(trainings: Path) -> None:
    import psutil

    workspace = str(trainings.parents[1])

    def of_the_run(process: psutil.Process) -> bool:
        try:
            return process.environ().get("PREFECT_HOME", "").startswith(workspace)
        except psutil.Error:
            return False  # It has just ended.

    # The kernel tells them that their parent is gone; a busy machine takes its time.
    until(lambda: not [p for p in stages_among(psutil.process_iter()) if of_the_run(p)], 300)
