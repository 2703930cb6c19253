"""What tests run in the place of a forked stage: look, train, exit or sleep."""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path


def look() -> None:
    """Print what this process was born with."""
    descriptors = sorted(file.name for file in Path("/proc/self/fd").iterdir() if file.exists())
    found = {
        "pid": os.getpid(),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "environment": dict(os.environ),
        "leads its session": os.getsid(0) == os.getpid(),
        "signals": [
            str(signal.getsignal(number)).split(" at ")[0] for number in (signal.SIGINT, signal.SIGTERM)
        ],
        "descriptors": descriptors,
        "chance": random.random(),  # noqa: S311
    }
    print(json.dumps(found))


def train(root: Path, name: str) -> None:
    """Train the bench of that directory, two steps of it."""
    from ltxcore.config.recipe import Recipe
    from ltxcore.stages.train_lora.request import request as train_lora_request
    from ltxcore.stages.train_lora.training import Training
    from tests.stages.conftest import Bench

    bench = Bench(root, Recipe.model_validate_json((root / "recipe.json").read_text()))
    request = train_lora_request(bench.ctx)
    training = Training(bench.ctx, root / name, request, "cpu")
    training.run(lambda metrics: None, lambda: False, 0)


def end(how: str) -> None:
    """Leave something for the end: a thread, a registered call, and words that are not flushed."""
    atexit.register(print, "registered", end=" ")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread", end=" "))).start()
    if how == "raise":
        raise LookupError("not caught")
    sys.exit(how)


def main(what: str, *arguments: str) -> None:
    """Do what a test asks for."""
    if what == "look":
        look()
    elif what == "train":
        train(Path(arguments[0]), arguments[1])
    elif what == "end":
        end(arguments[0])
    elif what == "exit":
        sys.exit(int(arguments[0]))
    else:
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
