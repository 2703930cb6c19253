"""The GPU benchmark's code, shrunk, on the CPU: every way of placing the weights runs and is reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import __main__ as runner
from bench.gpu import equality, stages
from bench.gpu.answers import Answers
from bench.gpu.launches import Launches, idle_percent
from bench.gpu.parts import Part, all_parts, measure_part
from bench.gpu.training import CASES

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


SHOWN = (
    "480p bf16 resident",
    "480p int8 streamed",
    "480p bf16 RamTorch",
    "480p bf16 resident, TREAD 0.5",
)


@pytest.mark.long
@pytest.mark.parametrize("name", SHOWN)
def test_a_case_is_measured(name: str) -> None:
    (row,) = measure_part(f"training: {name}", small=True)
    assert row["case"] == name
    assert min(row[key] for key in ("step s", "bare s", "predicted GiB", "TFLOP/s")) > 0
    assert row["launches"] is None, "there is no device whose launches could be counted"


def test_gemma_and_the_vae_are_measured_in_every_way() -> None:
    names = [part.name for part in all_parts() if part.table == "stages"]
    rows = [row for name in names for row in measure_part(name, small=True)]
    assert [row["stage"] for row in rows] == ["captions"] * 2 + ["clips"] * 5
    assert all(row["a second"] > 0 and row["predicted GiB"] > 0 for row in rows)
    assert rows[-1]["way"] == "pieces of 8 frames, tiles of 512"


@pytest.mark.long
def test_the_ways_are_compared_and_a_difference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    streamed, compiled = measure_part("equality", small=True)
    assert (streamed["largest loss difference"], streamed["LoRA distance"]) == (0, 0)
    assert compiled["LoRA distance"] <= compiled["bound"]

    trainings = iter([([2.0], torch.ones(3)), ([2.0], torch.ones(3) * 2)])
    monkeypatch.setattr(equality, "_train", lambda *given: next(trainings))
    with pytest.raises(RuntimeError, match=r"streamed blocks: .* by 0 and the LoRA by 1 of"):
        equality.compare_ways(True, "cpu")


def test_parts_are_written_as_they_end_and_are_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call() -> subprocess.CompletedProcess[str]:
        command = ["-m", "bench.gpu", "--small", "--only", "clips: 0"]
        return subprocess.run(
            [sys.executable, *command, "--out", str(tmp_path)], capture_output=True, text=True, check=True
        )

    assert "clips: 0: done" in call().stdout
    (file,) = tmp_path.glob("*-gpu-small.json")
    first = file.read_bytes()
    assert set(json.loads(first)["parts"]) == {"clips: 0"}
    (table,) = tmp_path.glob("*-gpu-small.md")
    assert table.read_text().splitlines()[-1].startswith("parts: 1, failed: 0")
    assert "done" not in call().stdout
    assert file.read_bytes() == first
    kept = json.loads(first)
    kept["code"] = "that of yesterday"
    file.write_text(json.dumps(kept))
    assert Answers.find(tmp_path, True, kept["machine"]).parts == {}


def test_a_part_that_fails_is_a_row_of_its_own(tmp_path: Path) -> None:
    part = Part("training: none of this name", "training", 1)
    rows, failed = runner._run(part, small=True)
    assert rows == []
    assert failed == "exit status 1: KeyError: 'none of this name'"
    answers = Answers.find(tmp_path, True, "a machine")
    answers.add(part, 1.0, rows, failed)
    assert f"{part.name} failed: {failed}" in answers.text()


def test_correctness_is_measured_before_speed() -> None:
    names = [part.name for part in all_parts()]
    assert len(set(names)) == len(names)
    assert sum(f"training: {case.name}" in names for case in CASES) == len(CASES)
    first = [part for part in all_parts() if part.table in ("tests", "equality")]
    assert names[: len(first)] == [part.name for part in first]


def test_idle_time_is_what_no_kernel_covers() -> None:
    assert idle_percent([]) is None
    assert idle_percent([(0, 4), (2, 6), (8, 10)]) == pytest.approx(20)
    assert idle_percent([(3, 9), (4, 5)]) == 0
    with Launches("cpu") as none:
        pass
    assert (none.count, none.idle_percent) == (None, None)


def test_the_table_of_a_stage_has_its_words() -> None:
    row = stages._rate("clips", "whole", 2.0, 1 << 30, 1 << 31)
    assert row == {"stage": "clips", "way": "whole", "a second": 2.0, "peak GiB": 1.0, "predicted GiB": 2.0}
