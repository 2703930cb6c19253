"""`ltx2 run`, the whole pipeline embedded: processes apart, files that open, a second run without work."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltxcore.stages.contract import STAGES
from ltxcore.stages.stamp import read_manifest, read_stamp
from ltxcore.store.blobs import read_json
from ltxcore.store.workspace import Workspace
from tests.e2e.readme import ROOT, readme

pytestmark = pytest.mark.e2e


def ltx2(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"ltx2 {' '.join(arguments)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path) -> dict[str, str]:
    """The sample clips, datasets.yaml as shipped but for the directory, and a short recipe."""
    folder = tmp_path_factory.mktemp("embedded")
    datasets = (ROOT / "datasets.yaml").read_text()
    assert "datasets/samples" in datasets
    (folder / "datasets.yaml").write_text(datasets.replace("datasets/samples", str(sample_clips)))
    recipe = (ROOT / "deploy/recipes/tiny.yaml").read_text()
    recipe = recipe.replace("max_train_steps: 60", "max_train_steps: 12").replace("steps: 8", "steps: 3")
    (folder / "recipe.yaml").write_text(recipe)
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
    done = subprocess.run(
        [*readme("make run"), *settings], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_run_does_every_stage_in_a_process_of_its_own(first_run: str, job: dict[str, str]) -> None:
    workspace, run = newest(job)
    entries = [read_manifest(run, stage) for stage in STAGES]
    assert all(entry is not None and not entry.up_to_date for entry in entries)
    processes = {entry.process for entry in entries if entry is not None}
    parent = read_json(run / "parent.json")
    assert len(processes | {parent["process"]}) == len(STAGES) + 1
    assert parent["peak_rss_bytes"] < 300 << 20, "a parent of this size cannot have imported torch"
    stamps = [read_stamp(workspace, entry) for entry in entries if entry is not None]
    assert all(stamp.peak_rss_bytes > 50 << 20 for stamp in stamps)


def test_its_summary_says_what_was_made_and_where(first_run: str, job: dict[str, str]) -> None:
    assert "14 taken in 5 buckets, 3 rejected, 0 quarantined" in first_run
    for reason in ("has no caption", "is not a video", "is too short"):
        assert reason in first_run
    assert " -> " in next(line for line in first_run.splitlines() if line.startswith("Loss"))
    gallery = next(line for line in first_run.splitlines() if line.startswith("Gallery")).split()[1]
    assert Path(gallery).is_file()
    videos = sorted(Path(gallery).parent.glob("*.mp4"))
    assert len(videos) == 4
    for video in videos:
        probe = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "json", str(video)]
        streams = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["streams"]
        assert [s["codec_name"] for s in streams] == ["h264", "aac"]


def test_both_lora_files_load_back_with_equal_output(first_run: str, job: dict[str, str]) -> None:
    import torch
    from diffusers import LTX2Pipeline

    workspace, run = newest(job)
    entry = read_manifest(run, next(s for s in STAGES if s.name == "train-lora"))
    assert entry is not None
    files = [workspace.root / f.path for f in read_stamp(workspace, entry).outcome.files]
    loras = [f for f in files if f.suffix == ".safetensors"]
    assert len(loras) == 2

    def frames(lora: Path | None) -> torch.Tensor:
        pipe = LTX2Pipeline.from_pretrained(workspace.models / "tiny-ltx2", torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        if lora is not None:
            pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
        return pipe(
            prompt="a red disc",
            width=64,
            height=64,
            num_frames=9,
            num_inference_steps=2,
            guidance_scale=1.0,
            max_sequence_length=128,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
            return_dict=False,
        )[0]

    base, one, other = frames(None), frames(loras[0]), frames(loras[1])
    assert (one - base).abs().mean() > 1e-4, "the LoRA does something"
    # One file is float32 and the other bf16.
    assert (one - other).abs().mean() < 0.05 * (one - base).abs().mean()


def test_a_second_run_does_no_work(first_run: str, job: dict[str, str]) -> None:
    before = {path for path in Workspace(job["--workspace"]).stages.rglob("*") if path.is_file()}
    command = readme("ltx2 run --datasets datasets.yaml --recipe deploy/recipes/tiny.yaml")
    second = ltx2(*_with(command, job), "--workspace", job["--workspace"]).stdout
    _, run = newest(job)
    entries = [entry for stage in STAGES if (entry := read_manifest(run, stage)) is not None]
    assert len(entries) == len(STAGES)
    assert all(entry.up_to_date and entry.counts["done"] == 0 for entry in entries)
    assert [entry.counts["hits"] for entry in entries] == [17, 13, 27, 18, 12, 4]
    assert second.count("up to date") >= len(STAGES)
    assert {path for path in Workspace(job["--workspace"]).stages.rglob("*") if path.is_file()} == before


def test_one_stage_runs_alone_and_says_what_it_misses(
    first_run: str, job: dict[str, str], tmp_path: Path
) -> None:
    command = readme("ltx2 stage encode-latents")[1:]
    alone = ltx2(*command, "--workspace", job["--workspace"], "--recipe", job["--recipe"])
    assert "up to date" in alone.stdout
    empty = ltx2("stage", "encode-latents", "--workspace", str(tmp_path / "empty"), check=False)
    assert empty.returncode == 1
    assert "run the stage probe-media first" in empty.stdout
    unknown = ltx2("stage", "encode-latent", check=False)
    assert unknown.returncode == 2
    assert "did you mean `encode-latents`?" in unknown.stderr


def test_a_broken_dataset_file_is_refused_before_anything_starts(job: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(Path(job["--datasets"]).read_text().replace("min_frames", "min_frame"))
    done = ltx2("run", "--datasets", str(broken), "--workspace", str(tmp_path / "ws"), check=False)
    assert done.returncode == 2
    assert "broken.yaml:15: 0.video.min_frame: is not a known key; did you mean `min_frames`?" in done.stderr
    assert not (tmp_path / "ws").exists()


def test_validate_and_doctor_say_that_all_is_well(job: dict[str, str]) -> None:
    command = readme("ltx2 validate --datasets datasets.yaml --recipe deploy/recipes/tiny.yaml")
    assert "are valid" in ltx2(*_with(command, job)).stdout
    told = ltx2(*readme("ltx2 doctor")[1:]).stdout
    assert "ffprobe" in told
    assert "missing" not in told


def test_ctrl_c_writes_a_checkpoint_and_the_next_run_continues(first_run: str, job: dict[str, str]) -> None:
    folder = Path(job["--workspace"]).parent
    recipe = Path(job["--recipe"]).read_text().replace("max_train_steps: 12", "max_train_steps: 4000")
    (folder / "long.yaml").write_text(recipe.replace("step_interval: 25", "step_interval: 4000"))
    long = {**job, "--recipe": str(folder / "long.yaml")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", *options(long)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    trainings = Workspace(job["--workspace"]).stages / "train-lora"
    deadline = time.monotonic() + 120
    while not (lines := _lines(trainings)) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert lines
    assert list(trainings.glob("*/checkpoint-*")), "a stopped training leaves its checkpoint"
    _check_no_child_of(trainings)
    shutil.rmtree(next(p for p in trainings.iterdir() if p.is_dir() and not (p / "stage.json").exists()))


def _lines(trainings: Path) -> int:
    unfinished = [p for p in trainings.iterdir() if p.is_dir() and not (p / "stage.json").exists()]
    files = [folder / "metrics.jsonl" for folder in unfinished]
    return sum(len(f.read_text().splitlines()) for f in files if f.exists())


def _check_no_child_of(trainings: Path) -> None:
    import psutil

    mine = [p for p in psutil.process_iter(["cmdline"]) if "flows.stage_process" in (p.info["cmdline"] or [])]
    workspace = str(trainings.parents[1])
    assert not [p.pid for p in mine if p.environ().get("PREFECT_HOME", "").startswith(workspace)]
