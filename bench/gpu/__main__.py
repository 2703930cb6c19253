"""Measures correctness, the step and the stages on a GPU, part by part; `make gpu` runs it.

    python -m bench.gpu [--small] [--only WORD ...] [--minutes 9] [--out bench/results]

Each part is a process of its own, and its rows are written as soon as it ends. What is done is not done again
on the same day with the same code: call it again for what is left. Nothing is installed or downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu.answers import Answers
from bench.gpu.parts import Part, all_parts, measure_part
from bench.machine import RESULTS, describe_machine

STUCK = 4
"""A part that takes so many times what it should is ended."""
SMALL_LIMIT_S = 600


def main() -> None:
    """Run what is left within the minutes given, write its tables, and exit with 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the same code shrunk, on any machine")
    parser.add_argument("--only", action="append", default=[], help="parts whose name has this in it")
    parser.add_argument("--minutes", type=float, default=9, help="begin nothing that would end later")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        given.answer.write_text(json.dumps(measure_part(given.part, given.small)), encoding="utf-8")
        return
    answers = Answers.find(given.out, given.small, _machine(given.small))
    parts = [part for part in all_parts() if not given.only or any(word in part.name for word in given.only)]
    left = [part for part in parts if part.name not in answers.parts]
    if given.small:
        left = [part for part in left if part.table != "tests"]
    ends_s = time.monotonic() + 60 * given.minutes
    waiting = []
    for part in left:
        if time.monotonic() + part.about_s > ends_s:
            waiting.append(part.name)
            continue
        started_s = time.monotonic()
        rows, failed = _run(part, given.small)
        seconds = time.monotonic() - started_s
        answers.add(part, seconds, rows, failed)
        print(f"{part.name}: {failed or 'done'}, {seconds:.0f} s", flush=True)
    print(f"\n{answers.text()}")
    if waiting:
        print(f"left for another call: {', '.join(waiting)}")
    if any(answers.parts[part.name]["failed"] for part in parts if part.name in answers.parts):
        raise SystemExit(1)


def _run(part: Part, small: bool) -> tuple[list[dict[str, Any]], str]:
    """The rows of a part, and why it failed, if it did."""
    with tempfile.TemporaryDirectory() as directory:
        answer, errors = Path(directory) / "answer.json", Path(directory) / "errors.txt"
        command = [sys.executable, "-m", "bench.gpu", "--part", part.name, "--answer", str(answer)]
        with errors.open("w") as stderr:
            try:
                code = subprocess.run(
                    [*command, "--small"] if small else command,
                    stderr=stderr,
                    timeout=SMALL_LIMIT_S if small else STUCK * part.about_s,
                    env={**os.environ, "HF_HUB_OFFLINE": "1"},
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                return [], f"it was ended after {error.timeout:.0f} s"
        if code == 0:
            return json.loads(answer.read_text(encoding="utf-8")), ""
        said = errors.read_text(errors="replace").strip().splitlines()
        return [], f"exit status {code}: {said[-1] if said else 'without a word'}"


def _machine(small: bool) -> str:
    """The device, its driver's CUDA and torch, in words.

    Raises:
        SystemExit: there is no CUDA device, and nothing small is asked for.
    """
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / (1 << 30)
        return (
            f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB, CUDA {torch.version.cuda}, "
            f"torch {torch.__version__}; {describe_machine()}"
        )
    if not small:
        raise SystemExit("there is no CUDA device; give --small to run the same code shrunk")
    return f"no GPU, torch {torch.__version__}; {describe_machine()}"


if __name__ == "__main__":
    main()
