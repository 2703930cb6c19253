"""Every file that the documentation names or links to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"`((?:ltxcore|flows|tasks|tests|bench|deploy|docs|examples)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = {page.parent / target for target in LINK.findall(text) if "://" not in target}
    named = {ROOT / target for target in NAMED.findall(text)}
    missing = sorted(str(path) for path in links | named if not path.exists())
    assert not missing


def test_the_map_names_every_page() -> None:
    linked = set(LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in PAGES[:-2]} - {"README.md"} <= linked
