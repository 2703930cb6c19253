"""Run as a process: writes checkpoints in children that kill themselves, by SIGKILL, at each step in turn.

A step is a file that is opened, made, renamed or removed, as Python's audit events tell. After every death
the newest whole checkpoint must be the one before or the new one, and the write must succeed when done again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from ltxcore.training.checkpoints import latest, write_checkpoint
from tests.unit.test_training_checkpoints import checkpoint, steps

STEPS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def main(folder: str) -> None:
    """Print how many deaths there were, and after how many the old or the new checkpoint was the newest."""
    found = {"deaths": 0, "old": 0, "new": 0}
    for number in count():
        place = Path(folder) / str(number)
        write_checkpoint(place, checkpoint(1), limit=2)
        write_checkpoint(place, checkpoint(2), limit=2)
        if not _dies(place, number):
            break
        newest = latest(place)
        assert newest is not None
        assert newest.step in (2, 3)
        found["deaths"] += 1
        found["old" if newest.step == 2 else "new"] += 1
        write_checkpoint(place, checkpoint(3), limit=2)
        assert steps(place) == [2, 3]
        assert not list(place.glob(".unfinished*"))
        shutil.rmtree(place)
    print(json.dumps(found))


def _dies(place: Path, number: int) -> bool:
    """Whether a write of checkpoint 3 dies at its step `number`; it has fewer where it does not."""
    child = os.fork()
    if child == 0:
        done = 0

        def audit(event: str, args: tuple[Any, ...]) -> None:
            nonlocal done
            if event in STEPS and str(place) in str(args[0]):
                if done == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                done += 1

        sys.addaudithook(audit)
        write_checkpoint(place, checkpoint(3), limit=2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
