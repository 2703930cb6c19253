"""The command line: its help imports next to nothing, and no command imports torch before it must."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import COMMANDS, app

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "diffusers", "transformers", "peft", "mlflow"}


def imported_by(*arguments: str) -> set[str]:
    """The packages that a command has imported when it ends."""
    code = (
        "import sys\n"
        "from flows.cli.app import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(ran.stdout.splitlines()[-1].split())


def test_help_needs_no_models_of_configuration_and_no_prefect() -> None:
    found = imported_by("--help")
    assert "typer" in found
    assert not found & {"pydantic", "prefect", "zarr", "numpy", *HEAVY}


@pytest.mark.parametrize(
    "arguments",
    [("plan", "--card", "4090"), ("keys",), ("doctor",), ("validate", "--help"), ("run", "--help")],
)
def test_what_is_asked_before_a_run_needs_no_torch(arguments: tuple[str, ...]) -> None:
    assert not imported_by(*arguments) & HEAVY


def test_every_line_of_the_help_has_its_command() -> None:
    help_text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    for entry in COMMANDS:
        module, _, name = entry.function.partition(":")
        function = getattr(import_module(module), name)
        assert inspect.getdoc(function), entry.name
        assert f" {entry.name} " in help_text


def test_a_command_that_is_not_there_names_the_nearest() -> None:
    ran = CliRunner().invoke(app, ["validat"])
    assert ran.exit_code == 2
    assert "validate" in ran.output
