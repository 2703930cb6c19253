"""`ltx2 init`: from a folder of clips to files that are valid, by options and by answers in a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.child_process import ROOT
from flows.cli.app import app
from ltxcore.config.datasets import Datasets, load_datasets
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.jobs.begin.wishes import BY_REFERENCE
from ltxcore.media.samples import make_samples

BAD = ("no-caption", "not-a-video", "too-short")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage") / "clips"
    made = make_samples(folder, "glimmer")
    # Of the good ones six are enough.
    kept = [path for path in made if path.stem in BAD] + [path for path in made if path.stem not in BAD][:6]
    for path in set(made) - set(kept):
        path.unlink()
    return folder


def init(clips: Path, output: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["init", "--clips", str(clips), "--output", str(output), *more])


def written(output: Path) -> tuple[Recipe, Datasets]:
    recipe = load_recipe(output / "recipe.yaml")
    return recipe, load_datasets(output / "datasets.yaml", recipe.data)


@pytest.mark.parametrize("goal", ["character", "sound", "pose-control"])
def test_each_kind_of_goal_gives_files_that_are_valid(clips: Path, tmp_path: Path, goal: str) -> None:
    more = ["--references", str(clips)] if goal in BY_REFERENCE else []
    done = init(clips, tmp_path, "--goal", goal, "--card", "24gb", *more)
    assert done.exit_code == 0, done.output
    assert "ltx2 run --datasets" in done.output
    recipe, datasets = written(tmp_path)
    assert recipe.memory.vram_gib == 23
    assert bool(datasets.conditioning) == (goal in BY_REFERENCE)
    assert datasets.audio_only == (goal == "sound")


def test_the_files_follow_the_clips_and_the_wishes(clips: Path, tmp_path: Path) -> None:
    more = ("--goal", "character", "--card", "24gb", "--hours", "1", "--trigger", 'mira "the cat"')
    done = init(clips, tmp_path, *more)
    assert done.exit_code == 0, done.output
    recipe, datasets = written(tmp_path)
    (video,) = datasets.video
    assert video.video.num_frames == 25, "four of five clips have 1.0 s or more"
    assert video.trigger == 'mira "the cat"'
    assert all(prompt.startswith("mira") for prompt in recipe.validation.validation_prompts.values())
    assert recipe.training.max_train_steps < 2000, "an hour allows fewer than the preset"
    assert recipe.training.max_train_steps % 50 == 0
    for words in ("not-a-video.mp4 is not a video", "no-caption.mp4", "will be left out"):
        assert words in done.output


def test_a_folder_below_the_files_is_named_from_there(clips: Path) -> None:
    assert init(clips, clips.parent, "--goal", "style", "--card", "80gb").exit_code == 0
    assert 'instance_data_dir: "clips"' in (clips.parent / "datasets.yaml").read_text()


def test_nothing_is_written_over(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    done = init(clips, tmp_path, "--goal", "style", "--card", "80gb")
    assert done.exit_code == 2
    assert "is there already" in done.output
    assert (tmp_path / "recipe.yaml").read_text() == "mine"
    assert not (tmp_path / "datasets.yaml").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--goal", "caracter", "--card", "24gb"), "character"),
        (("--goal", "style", "--card", "24g"), "24gb"),
        (("--goal", "style", "--card", "24gb", "--hours", "0.05"), "give at least"),
        (("--goal", "pose-control", "--card", "24gb"), "--references"),
        (
            (
                "--goal",
                "style",
            ),
            "--card",
        ),
        (("--goal", "style", "--card", "24gb", "--references", "."), "references belong to"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    clips: Path, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    done = init(clips, tmp_path, *more)
    assert done.exit_code == 2
    assert words in done.output
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    done = init(tmp_path, tmp_path / "out", "--goal", "style", "--card", "24gb")
    assert done.exit_code == 2
    assert "there is no clip" in done.output


def test_in_a_terminal_it_asks_and_asks_again(clips: Path, tmp_path: Path) -> None:
    """Answers by hand: a goal that does not exist is asked once more."""
    answers = {
        "Where are your clips": str(clips),
        "What is the LoRA for": "stile",
        "select one of": "style",
        "Which card": "80gb",
        "How many hours": "",
        "Which words": "mira",
    }
    main, side = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "init", "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, cwd=ROOT, env={**os.environ})
    os.close(side)
    seen, deadline = "", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([main], [], [], 1.0)[0]:
            try:
                seen += os.read(main, 4096).decode(errors="replace")
            except OSError:
                break
        asked = next((question for question in answers if question in seen), None)
        if asked:
            seen = seen.partition(asked)[2]
            os.write(main, f"{answers.pop(asked)}\n".encode())
    assert process.wait(60) == 0, seen
    os.close(main)
    assert not answers
    recipe, datasets = written(tmp_path)
    assert recipe.training.max_train_steps == 1500
    assert json.loads(datasets.model_dump_json())["video"][0]["instance_prompt"] == "mira"
