import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.plugin import expand, program_of

PREFECT = "/somewhere/bin/prefect"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([PREFECT, "deployment", "run", "train-ltx2"], "train-ltx2/train-ltx2"),
        ([PREFECT, "deployment", "run", "train-ltx2", "--watch"], "train-ltx2/train-ltx2"),
        ([PREFECT, "deployment", "inspect", "probe-media"], "probe-media/probe-media"),
        ([PREFECT, "deployment", "run", "a/b"], "a/b"),
        ([PREFECT, "deployment", "run", "--id"], "--id"),
        ([PREFECT, "deployment", "ls", "a"], "a"),
        ([PREFECT, "work-pool", "inspect", "cpu"], "cpu"),
        (["/somewhere/bin/pytest", "deployment", "run", "a"], "a"),
    ],
)
def test_a_bare_name_becomes_flow_and_deployment(given: list[str], wanted: str) -> None:
    assert expand(given) == [*given[:3], wanted, *given[4:]]


@pytest.mark.parametrize("given", [[], [PREFECT], [PREFECT, "deployment", "run"]])
def test_short_command_lines_are_left(given: list[str]) -> None:
    assert expand(given) == given


@pytest.mark.parametrize(
    ("argv", "original", "wanted"),
    [
        (["-m", "deployment"], ["/bin/python", "-m", "prefect", "deployment"], "prefect"),
        (["-m", "deployment"], ["/bin/python", "-X", "dev", "-m", "other", "deployment"], "other"),
        ([PREFECT, "deployment"], ["/bin/python", PREFECT, "deployment"], PREFECT),
        (["-m"], [], "-m"),
    ],
)
def test_a_module_is_known_by_its_name(argv: list[str], original: list[str], wanted: str) -> None:
    assert program_of(argv, original) == wanted


def test_without_a_server_none_is_started_in_its_place(tmp_path: Path) -> None:
    """Prefect's temporary one would have no guard, and know nothing of the workspace."""
    (tmp_path / "workspace/prefect").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"LTX2_WORKSPACE": str(tmp_path / "workspace"), "PREFECT_HOME": str(tmp_path / "home")}
    asked = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "train-ltx2"],
        env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 1
    assert asked.stderr.strip().splitlines()[-1] == (
        f"No server runs for {tmp_path / 'workspace'}. Start it: `make serve` or `ltx2 serve`"
    )
    assert "Traceback" not in asked.stderr
    assert not (tmp_path / "home/prefect.db").exists()
