"""Identifies the tiny model in a directory. Imports no torch, because it is asked before any stage has
started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

TINY_REVISION: Final = 1
"""Bump when the bytes of the tiny model change, so that one written before is written anew."""
TINY_STAMP: Final = "tiny.json"


def tiny_stamp(version: str = "2.0", seed: int = 0) -> str:
    """The content of `tiny.json` in a tiny model, which identifies it."""
    return json.dumps({"version": version, "seed": seed, "revision": TINY_REVISION})


def stamp_of(directory: Path) -> str | None:
    """What a directory's stamp says; None where there is none."""
    path = directory / TINY_STAMP
    return path.read_text(encoding="utf-8") if path.is_file() else None
