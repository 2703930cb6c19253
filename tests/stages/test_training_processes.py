"""Training in two processes on the CPU (gloo): as in one, resumed by another number, and its ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.config.processes_settings import ProcessSettings
from ltxcore.config.recipe import Recipe
from ltxcore.memory.out_of_memory import is_out_of_memory
from ltxcore.stages import train_lora
from ltxcore.stages.contract import TRAIN
from ltxcore.stages.stamp import request_fingerprint
from ltxcore.stages.training_team import ProcessFailed, ProcessOutOfMemory
from ltxcore.training.checkpoints import latest
from ltxcore.training.early_stop import read_evaluations
from ltxcore.training.loop import TrainingInterrupted
from tests.stages.conftest import Bench
from tests.stages.test_guidance_stages import some_share

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "deploy" / "accelerate"


def with_processes(bench: Bench, count: int, config: str | None = None, **training: object) -> Bench:
    """The bench's recipe for `count` processes, at two batches a step in all."""
    file = None if config is None else CONFIGS / config
    changes = {
        "processes": ProcessSettings(count=count, accelerate_config=file),
        "training": bench.recipe.training.model_copy(
            update={
                "gradient_accumulation_steps": 2 // count,
                "max_train_steps": 4,
                "lr_warmup_steps": 1,
                **training,
            }
        ),
    }
    return Bench(bench.root, bench.recipe.model_copy(update=changes))


def run(bench: Bench, name: str, stop_after: int | None = None) -> tuple[Path, list[int]]:
    request = train_lora.request(bench.ctx)
    directory = bench.root / name
    training = train_lora.Training(bench.ctx, directory, request, "cpu")
    steps: list[int] = []
    training.run(lambda m: steps.append(m.step), lambda: stop_after is not None and len(steps) >= stop_after)
    return directory, steps


def series(directory: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def assert_same_training(one: Path, other: Path) -> None:
    for name in ("loss", "grad_norm", "learning_rate"):
        assert series(one, name) == pytest.approx(series(other, name), rel=2e-4), name
    assert series(one, "sample_ids") == series(other, "sample_ids")
    ours, theirs = (load_file(d / "lora" / "pytorch_lora_weights.safetensors") for d in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-2, atol=2e-5)


@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp2.yaml"])
def test_two_processes_train_as_one_that_accumulates(bench: Bench, config: str) -> None:
    bench.prepare()
    alone, _ = run(with_processes(bench, 1), "alone")
    together, steps = run(with_processes(bench, 2, config), "together")
    assert steps == [1, 2, 3, 4]
    assert_same_training(alone, together)


@pytest.mark.parametrize("config", ["ddp.yaml", "gathered.yaml"])
def test_two_processes_measure_the_average_as_one_does(bench: Bench, config: str) -> None:
    # A model that stays gathered would not see by itself that the shares have changed.
    shared = (CONFIGS / "fsdp2.yaml").read_text()
    gathered = shared.replace("reshard_after_forward: true", "reshard_after_forward: false")
    assert gathered != shared
    (bench.root / "gathered.yaml").write_text(gathered)
    file = str(bench.root / config) if config == "gathered.yaml" else config
    held = EvaluationSettings(eval_share=some_share(bench), eval_step_interval=2, eval_sigmas=(0.5,))
    bench = Bench(bench.root, bench.recipe.model_copy(update={"evaluation": held}))
    bench.prepare()
    keys = {"use_ema": True, "ema_decay": 0.5, "learning_rate": 0.02}
    alone, _ = run(with_processes(bench, 1, **keys), "alone")
    together, _ = run(with_processes(bench, 2, file, **keys), "together")
    assert_same_training(alone, together)
    ours, theirs = (read_evaluations(d / "evaluations.jsonl") for d in (alone, together))
    assert [e.step for e in theirs] == [0, 2, 4]
    for one, other in zip(ours, theirs, strict=True):
        assert other.eval_loss == pytest.approx(one.eval_loss, rel=1e-5)
        assert other.ema == pytest.approx(one.ema, rel=1e-5)
    assert all(abs(e.ema - e.eval_loss) > 1e-4 * e.eval_loss for e in theirs[1:] if e.ema is not None)
    (one, other) = (load_file(d / "lora" / "pytorch_lora_weights_ema.safetensors") for d in (alone, together))
    assert all(torch.allclose(one[name], other[name], rtol=2e-2, atol=2e-5) for name in one)


def test_the_number_of_processes_is_no_part_of_the_request(bench: Bench) -> None:
    bench.prepare()
    one, two = (train_lora.request(with_processes(bench, count).ctx) for count in (1, 2))
    assert one == two
    more = with_processes(bench, 2, gradient_accumulation_steps=2)
    assert request_fingerprint(TRAIN, train_lora.request(more.ctx)) != request_fingerprint(TRAIN, two)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_continues(bench: Bench, first: int, then: int) -> None:
    bench.prepare()
    straight, _ = run(with_processes(bench, 1), "straight")
    with pytest.raises(TrainingInterrupted):
        run(with_processes(bench, first, checkpoint_step_interval=1), "changed", stop_after=1)
    stopped = latest(bench.root / "changed")
    assert stopped is not None
    assert 1 <= stopped.step < 4
    changed, steps = run(with_processes(bench, then), "changed")
    assert steps[0] == stopped.step + 1
    assert_same_training(straight, changed)


def test_what_one_process_says_ends_all(bench: Bench) -> None:
    bench.prepare()
    several = with_processes(bench, 2, learning_rate=1e30)
    with pytest.raises(ProcessFailed, match=r"TrainingDiverged: process \d of 2: the \w+ of step"):
        run(several, "diverged")
    assert not leftovers(bench.root / "diverged")


def test_a_process_that_is_killed_is_named(bench: Bench) -> None:
    bench.prepare()
    directory = bench.root / "killed"
    killed = False

    def kill() -> bool:
        nonlocal killed
        ranks = [process for process in leftovers(directory) if process.cmdline()[-1] == "1"]
        if not killed and ranks and (directory / "metrics.jsonl").exists():
            ranks[0].kill()
            killed = True
        return False

    several = with_processes(bench, 2, max_train_steps=5000)
    training = train_lora.Training(several.ctx, directory, train_lora.request(several.ctx), "cpu")
    with pytest.raises(ProcessFailed, match="process 1 of 2 ended with status -9"):
        training.run(lambda metrics: None, kill)
    assert not leftovers(directory)


def leftovers(directory: Path) -> list[psutil.Process]:
    """Processes of that training that are still there."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory / "processes") in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_stage_takes_its_processes_along(bench: Bench) -> None:
    bench.prepare()
    several = with_processes(bench, 2, max_train_steps=5000)
    directory = bench.root / "orphans"
    (bench.root / "recipe.json").write_text(several.recipe.model_dump_json())
    code = (
        "import sys; from pathlib import Path; from tests.stages.conftest import Bench;"
        "from tests.stages.test_training_processes import run; from ltxcore.config.recipe import Recipe;"
        "root = Path(sys.argv[1]); recipe = Recipe.model_validate_json((root / 'recipe.json').read_text());"
        "run(Bench(root, recipe), 'orphans')"
    )
    stage = subprocess.Popen(
        [sys.executable, "-c", code, str(bench.root)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        wait_for(lambda: (directory / "metrics.jsonl").exists() and len(series(directory, "step")) > 1)
        assert len(leftovers(directory)) == 2
    finally:
        stage.send_signal(signal.SIGKILL)
        stage.wait()
    wait_for(lambda: not leftovers(directory))


def wait_for(met: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


def test_want_of_memory_in_a_process_is_told_as_such() -> None:
    assert is_out_of_memory(ProcessOutOfMemory("process 1 of 2: CUDA out of memory"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("distributed_type: DEEPSPEED\n", "has distributed_type DEEPSPEED; give MULTI_GPU, or FSDP"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}\n", "has fsdp_version 1; give 2"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", "has num_machines 2"),
        ("- a\n", "is no config of accelerate"),
    ],
)
def test_a_config_that_is_not_built_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        ProcessSettings(count=2, accelerate_config=file)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        ProcessSettings(accelerate_config=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "more",
    [{"memory": {"strategy": "block_streaming"}}, {"model": {"base_model_precision": "int8-quanto"}}],
    ids=["streamed", "quantised"],
)
def test_what_cannot_be_shared_out_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fsdp2\.yaml shares the transformer out"):
        Recipe.model_validate(
            {"processes": {"count": 2, "accelerate_config": str(CONFIGS / "fsdp2.yaml")}, **more}
        )


@pytest.mark.parametrize("optimizer", ["adamw_bf16", "adamw8bit", "prodigy"])
def test_an_optimizer_of_whole_tensors_is_not_shared_out(optimizer: str) -> None:
    settings = {"count": 2, "accelerate_config": str(CONFIGS / "fsdp2.yaml")}
    with pytest.raises(ValueError, match=rf"training.optimizer {optimizer} changes whole tensors"):
        Recipe.model_validate({"processes": settings, "training": {"optimizer": optimizer}})
    Recipe.model_validate({"processes": {"count": 2}, "training": {"optimizer": optimizer}})
