"""A training that is asked to stop, and is killed before it reads that."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from ltxcore.config.recipe import Recipe
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.stamp import stage_directory
from ltxcore.stages.train_lora.control import Requests
from ltxcore.stages.train_lora.request import request
from ltxcore.stages.train_lora.training import Training
from ltxcore.training.metrics import StepMetrics
from tests.stages.conftest import Bench


def main(root: Path, step: int) -> None:
    """Train the bench of that directory; after the step, ask twice and be killed."""
    bench = Bench(root, Recipe.model_validate_json((root / "recipe.json").read_text()))
    asked = request(bench.ctx)
    directory = stage_directory(bench.ctx.workspace, TRAIN, asked)

    def click_and_die(metrics: StepMetrics) -> None:
        if metrics.step == step:
            first, second = (Requests(directory).ask("stop", time.time(), step) for _ in range(2))
            assert (first, second) == (True, False)
            os.kill(os.getpid(), signal.SIGKILL)

    Training(bench.ctx, directory, asked, "cpu").run(click_and_die, lambda: False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
