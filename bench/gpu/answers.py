"""What was measured so far, on disk after each part, and its tables."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bench.gpu.parts import Part
from ltxcore.store.blobs import write_atomic

ROOT = Path(__file__).parents[2]
MEASURED = ("ltxcore", "bench/gpu")
"""The source whose change makes an answer one of other code."""


@dataclass
class Answers:
    """The parts that are done on this machine with this code.

    Args:
        stem: the two files' path, without `.json` and `.md`.
        machine: the device and the packages, in words.
        code: a hash of the measured source.
        parts: rows of each part that is done, or why it failed.
    """

    stem: Path
    machine: str
    code: str
    parts: dict[str, dict[str, Any]]

    @classmethod
    def find(cls, directory: Path, small: bool, machine: str) -> Answers:
        """Those of today in `directory`; none where the machine or the code was another."""
        stem = directory / f"{date.today():%Y-%m-%d}-gpu{'-small' if small else ''}"
        code, parts = code_hash(), {}
        if (file := stem.with_suffix(".json")).exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if (kept["machine"], kept["code"]) == (machine, code):
                parts = kept["parts"]
        return cls(stem, machine, code, parts)

    def add(self, part: Part, seconds: float, rows: list[dict[str, Any]], failed: str) -> None:
        """Keep what a part gave, on disk too."""
        self.parts[part.name] = {
            "table": part.table,
            "seconds": round(seconds, 1),
            "rows": rows,
            "failed": failed,
        }
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        kept = {"machine": self.machine, "code": self.code, "parts": self.parts}
        write_atomic(self.stem.with_suffix(".json"), json.dumps(kept, indent=1).encode())
        write_atomic(self.stem.with_suffix(".md"), self.text().encode())

    def text(self) -> str:
        """The tables as Markdown, what failed, and the time in all."""
        tables: dict[str, list[dict[str, Any]]] = {}
        for answer in self.parts.values():
            tables.setdefault(answer["table"], []).extend(answer["rows"])
        lines = [f"# gpu, {date.today()}", "", self.machine]
        for name, rows in tables.items():
            if rows:
                lines += ["", f"## {name}", "", *_table(rows)]
        lines += [
            f"\n{name} failed: {answer['failed']}" for name, answer in self.parts.items() if answer["failed"]
        ]
        failed = sum(bool(answer["failed"]) for answer in self.parts.values())
        seconds = sum(answer["seconds"] for answer in self.parts.values())
        lines += ["", f"parts: {len(self.parts)}, failed: {failed}, seconds: {seconds:.0f}"]
        return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(_cell(row[key]) for key in header) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def code_hash() -> str:
    """A hash of the measured source files' names and contents."""
    total = hashlib.sha256()
    for folder in MEASURED:
        for file in sorted((ROOT / folder).rglob("*.py")):
            total.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]
