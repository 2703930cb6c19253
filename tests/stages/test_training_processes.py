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
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.stamp import request_fingerprint
from ltxcore.stages.train_lora.control import ON_REQUEST, Requests
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.sample_steps import waiting_steps
from ltxcore.stages.train_lora.team import ProcessFailed, ProcessOutOfMemory
from ltxcore.stages.train_lora.training import Training
from ltxcore.training.checkpoints import latest
from ltxcore.training.early_stop import read_evaluations
from tests.rounding import TINY_TERMS, bound
from tests.stages.conftest import Bench, make_bench
from tests.stages.test_guidance_stages import some_share

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "deploy" / "accelerate"


def with_processes(bench: Bench, count: int, file: Path | None = None, **training: object) -> Bench:
    """The bench's recipe for `count` processes, at two batches a step in all."""
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


def run(bench: Bench, name: str, pause_at: int = 0) -> tuple[Path, list[int]]:
    request = train_lora_request(bench.ctx)
    directory = bench.root / name
    training = Training(bench.ctx, directory, request, "cpu")
    steps: list[int] = []
    training.run(lambda m: steps.append(m.step), lambda: False, pause_at)
    return directory, steps


def series(directory: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def assert_same_training(one: Path, other: Path) -> None:
    for name in ("loss", "grad_norm", "learning_rate"):
        # Four steps, forwards and backwards; each starts from weights that differ by the rounding before.
        allowed = bound(4 * 2 * TINY_TERMS, 1.0)
        assert series(one, name) == pytest.approx(series(other, name), rel=allowed), name
    assert series(one, "sample_ids") == series(other, "sample_ids")
    ours, theirs = (load_file(d / "lora" / "pytorch_lora_weights.safetensors") for d in (one, other))
    assert_same_weights(ours, theirs)


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """They differ by what Adam makes of gradients that differ by a share b, as parts of the whole tensor.

    Adam moves each weight equally far, however small its gradient g: where g is below b, of a size of 1, its
    direction is a matter of rounding, elsewhere the step differs by 2b / |g|. Over gradients drawn from a
    normal distribution, whose density is at most 0.4, the mean of the square min(2, 2b / |g|)^2 is below 8b.
    """
    allowed = (8 * bound(4 * 2 * TINY_TERMS, 1.0)) ** 0.5
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).norm() <= allowed * tensor.norm(), name


AVERAGED = {"use_ema": True, "ema_decay": 0.5, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """A bench that holds clips out; `alone` in its folder is a training with an average in one process."""
    bench = make_bench(tmp_path_factory.mktemp("measured"), sample_clips, tiny_models)
    held = EvaluationSettings(eval_share=some_share(bench), eval_step_interval=2, eval_sigmas=(0.5,))
    bench = Bench(bench.root, bench.recipe.model_copy(update={"evaluation": held}))
    # A model that stays gathered would not see by itself that the shares have changed.
    shared = (CONFIGS / "fsdp2.yaml").read_text()
    gathered = shared.replace("reshard_after_forward: true", "reshard_after_forward: false")
    assert gathered != shared
    (bench.root / "gathered.yaml").write_text(gathered)
    run(with_processes(bench, 1, **AVERAGED), "alone")
    return bench


def assert_as_alone(measured: Bench, other: Path) -> None:
    """Its losses, its weights, and what it measured of them and of their average."""
    alone = measured.root / "alone"
    assert_same_training(alone, other)
    ours, theirs = (read_evaluations(d / "evaluations.jsonl") for d in (alone, other))
    assert [e.step for e in theirs] == [0, 2, 4]
    for one, another in zip(ours, theirs, strict=True):
        allowed = bound(4 * 2 * TINY_TERMS, 1.0)
        assert another.eval_loss == pytest.approx(one.eval_loss, rel=allowed)
        assert another.ema == pytest.approx(one.ema, rel=allowed)
    assert all(abs(e.ema - e.eval_loss) > 1e-4 * e.eval_loss for e in theirs[1:] if e.ema is not None)
    (one, another) = (load_file(d / "lora" / "pytorch_lora_weights_ema.safetensors") for d in (alone, other))
    assert_same_weights(one, another)


def test_two_processes_train_and_measure_as_one_that_accumulates(
    measured: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Threads of torch and gloo that live on can abort a process on Python's way out; it must not matter.
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.abort)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    together, steps = run(with_processes(measured, 2, CONFIGS / "fsdp2.yaml", **AVERAGED), "together")
    assert steps == [1, 2, 3, 4]
    assert_as_alone(measured, together)
    noted = json.loads((together / "resume.json").read_text())
    assert noted["threads"] == torch.get_num_threads(), "the stage's number, not the environment's"


def test_the_number_of_processes_is_no_part_of_the_request(bench: Bench) -> None:
    bench.prepare()
    one, two = (train_lora_request(with_processes(bench, count).ctx) for count in (1, 2))
    assert one == two
    more = with_processes(bench, 2, gradient_accumulation_steps=2)
    assert request_fingerprint(TRAIN, train_lora_request(more.ctx)) != request_fingerprint(TRAIN, two)


@pytest.mark.long
@pytest.mark.parametrize(("first", "then", "config"), [(2, 1, "ddp.yaml"), (1, 2, "gathered.yaml")])
def test_another_number_of_processes_continues(measured: Bench, first: int, then: int, config: str) -> None:
    file = (measured.root if config == "gathered.yaml" else CONFIGS) / config
    keys = {**AVERAGED, "checkpoint_step_interval": 1}
    name = f"{first}-then-{then}"
    # A pause and not an interruption: on a busy machine all four steps may be done before that is heard.
    assert Requests(measured.root / name).ask("sample", 0.0, step=2)
    changed, _ = run(with_processes(measured, first, file, **keys), name, pause_at=ON_REQUEST)
    stopped = latest(changed)
    assert stopped is not None
    assert stopped.step == 2
    assert waiting_steps(changed) == [2]
    _, steps = run(with_processes(measured, then, file, **keys), name)
    assert steps[0] == stopped.step + 1
    assert_as_alone(measured, changed)


@pytest.mark.long
def test_what_one_process_says_ends_all(bench: Bench) -> None:
    bench.prepare()
    several = with_processes(bench, 2, learning_rate=1e30)
    with pytest.raises(ProcessFailed, match=r"TrainingDiverged: process \d of 2: the \w+ of step"):
        run(several, "diverged")
    assert not leftovers(bench.root / "diverged")


@pytest.mark.long
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
    training = Training(several.ctx, directory, train_lora_request(several.ctx), "cpu")
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


@pytest.mark.long
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


def wait_for(met: object, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


def test_want_of_memory_in_a_process_is_reported_as_such() -> None:
    assert is_out_of_memory(ProcessOutOfMemory("process 1 of 2: CUDA out of memory"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: DEEPSPEED\n", "has distributed_type DEEPSPEED; give MULTI_GPU, or FSDP"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}\n", "has fsdp_version 1; give 2"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", "has num_machines 2"),
        ("- a\n", "is not a config of accelerate"),
    ],
)
def test_a_config_that_is_not_built_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        ProcessSettings(count=2, accelerate_config=file)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        ProcessSettings(accelerate_config=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "more",
    [{"memory": {"strategy": "block_streaming"}}, {"model": {"base_model_precision": "int8-quanto"}}],
    ids=["streamed", "quantised"],
)
def test_what_cannot_be_sharded_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fsdp2\.yaml shards the transformer"):
        Recipe.model_validate(
            {"processes": {"count": 2, "accelerate_config": str(CONFIGS / "fsdp2.yaml")}, **more}
        )


@pytest.mark.parametrize("optimizer", ["adamw_bf16", "adamw8bit", "prodigy"])
def test_an_optimizer_of_whole_tensors_is_not_sharded(optimizer: str) -> None:
    settings = {"count": 2, "accelerate_config": str(CONFIGS / "fsdp2.yaml")}
    with pytest.raises(ValueError, match=rf"training.optimizer {optimizer} changes whole tensors"):
        Recipe.model_validate({"processes": settings, "training": {"optimizer": optimizer}})
    Recipe.model_validate({"processes": {"count": 2}, "training": {"optimizer": optimizer}})
