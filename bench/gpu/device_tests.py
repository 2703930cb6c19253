"""The tests that need a device, as rows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
NO_TESTS = 5
"""pytest's exit status where it has found none."""


def run_device_tests() -> list[dict[str, Any]]:
    """Run every test that is marked `gpu`; a row with the counts.

    Raises:
        RuntimeError: one failed, with the names of those that did; or none was found.
    """
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "gpu", "tests", f"--junitxml={report}"],
            cwd=ROOT,
            check=False,
        )
        if ran.returncode == NO_TESTS or not report.exists():
            raise RuntimeError(f"pytest ended with {ran.returncode} and ran no test that is marked gpu")
        # The file is one that pytest has just written here.
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314
    failed = [case.get("name", "") for case in cases if {"failure", "error"} & {child.tag for child in case}]
    if failed or ran.returncode:
        raise RuntimeError(f"{len(failed)} tests failed: {', '.join(failed)}")
    skipped = sum(child.tag == "skipped" for case in cases for child in case)
    return [{"tests": len(cases), "passed": len(cases) - skipped, "skipped": skipped}]
