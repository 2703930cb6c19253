"""Every command in the README is run by a test."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.readme import ROOT, commands

TAKEN = re.compile(r'readme\(\s*"([^"]+)"')
# A test cannot run the command that runs it; CI runs it, see .ci/run.
BY_CI = {"make test"}


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    tests += [path.read_text() for path in (ROOT / "tests" / "e2e").glob("serving.py")]
    run = {command for text in tests for command in TAKEN.findall(text)}
    assert commands(), "the README lost its commands"
    assert set(commands()) - run == BY_CI
    assert "make lint test" in (ROOT / ".ci/run").read_text()


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (Path(ROOT) / link).exists()] == []
