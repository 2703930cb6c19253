"""The commands of the README and the docs. Tests take what they run from here, so that they cannot drift."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: str = "README.md") -> list[str]:
    """Every command line in a page's bash blocks."""
    blocks = BLOCK.findall((ROOT / page).read_text())
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def readme(command: str) -> list[str]:
    """The words of a command that must stand in the README as it is written here."""
    assert command in commands(), f"the README has no command {command!r}"
    return shlex.split(command)


def recipe_of(target: list[str], **variables: str) -> list[str]:
    """The command that `make TARGET` would run last, with variables of the Makefile set."""
    settings = [f"{name}={value}" for name, value in variables.items()]
    shown = subprocess.run(
        [*target, "--dry-run", "--no-print-directory", *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return shlex.split(shown.stdout.splitlines()[-1].removeprefix("exec "))
