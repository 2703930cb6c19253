"""The examples run as they are, and leave what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize(
    ("name", "said", "left"),
    [
        ("look_at_a_dataset", ["blue-box-up.mp4", "rejected: ", "page: "], []),
        ("hello_stage", ["demo/blue-box-up.mp4: red ", "nothing is measured again"], []),
        (
            "encode_and_decode",
            ["are latents [", "mean difference"],
            ["encoded-and-decoded.mp4", "encoded-and-decoded.png"],
        ),
        ("train_20_steps", ["'steps': 20", "LoRA: "], ["loss.png"]),
    ],
)
def test_an_example_runs(name: str, said: list[str], left: list[str], output: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), str(output)],
        capture_output=True,
        text=True,
        check=False,
        cwd=output,
    )
    assert ran.returncode == 0, ran.stderr
    for words in said:
        assert words in ran.stdout
    for file in left:
        assert (output / file).stat().st_size


def test_every_example_is_tried() -> None:
    shared = {"demo"}
    names = {path.stem for path in EXAMPLES.glob("*.py")} - shared
    assert names == {"look_at_a_dataset", "hello_stage", "encode_and_decode", "train_20_steps"}
