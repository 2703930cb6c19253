"""Headless Chromium, driven by playwright: the system's own, since playwright downloads none here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
REQUIRED: Final = "LTX2_REQUIRE_BROWSER"
"""Set to 1, as `.ci/run` does, a test that lacks the browser fails; otherwise it is skipped."""


def find_chromium() -> str:
    """The path of the browser; skips or fails the test where there is none."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        message = f"needs Chromium, and there is none of {', '.join(NAMES)}"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(message)
        pytest.skip(message)
    return program


@contextmanager
def chromium(arguments: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser with more command-line arguments.

    Import Prefect before: at its first import it must start an event loop, and playwright's is running then.
    """
    program = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()
