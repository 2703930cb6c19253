"""Stages forked from a process with the libraries imported: clean starts, own ends, the same bits."""

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

from flows.child_process import python_path
from flows.forked_stage import ForkedStage, StageServer
from flows.stage_server import NotForkable, check_forkable
from tests.stages.conftest import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux alone")
ROOT = Path(__file__).parents[2]
PROBE = "tests.stages.forked_probe"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": python_path(), "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> StageServer:
    server = StageServer.spawned(environment)
    assert server.ready, "its imports have left nothing that a fork must not copy"
    return server


def forked(server: StageServer, environment: dict[str, str], log: Path, *arguments: str) -> ForkedStage:
    with log.open("wb") as file:
        stage = server.start(PROBE, arguments, environment, file)
    assert stage is not None
    return stage


def until(met: object) -> None:
    deadline = time.monotonic() + 600
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_a_forked_stage_starts_as_a_fresh_process_does(
    server: StageServer, environment: dict[str, str], tmp_path: Path
) -> None:
    given = {**environment, "PREFECT__FLOW_RUN_ID": "this one's", "HOME": str(tmp_path)}
    messages = []
    for name in ("one", "other"):
        assert forked(server, given, tmp_path / name, "look").wait() == 0
        messages.append(json.loads((tmp_path / name).read_text()))
    fresh = subprocess.run(
        [sys.executable, "-m", PROBE, "look"], env=given, cwd=ROOT, capture_output=True, check=True
    )
    for found in messages:
        assert found["threads"] == 1
        assert found["environment"] == given
        assert found["leads its session"]
        assert found["signals"] == json.loads(fresh.stdout)["signals"]
        assert found["descriptors"] == ["0", "1", "2"]
    assert messages[0]["chance"] != messages[1]["chance"]
    assert messages[0]["pid"] != messages[1]["pid"]


def test_a_forked_training_has_the_bits_of_a_fresh_one(
    server: StageServer, environment: dict[str, str], bench: Bench, tmp_path: Path
) -> None:
    bench.prepare()
    (bench.root / "recipe.json").write_text(bench.recipe.model_dump_json())
    arguments = ("train", str(bench.root))
    assert forked(server, environment, tmp_path / "log", *arguments, "forked").wait() == 0, (
        tmp_path / "log"
    ).read_text()
    subprocess.run([sys.executable, "-m", PROBE, *arguments, "fresh"], env=environment, cwd=ROOT, check=True)
    losses, weights = [], []
    for directory in (bench.root / "forked", bench.root / "fresh"):
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        weights.append(load_file(directory / "lora" / "pytorch_lora_weights.safetensors"))
    assert losses[0]
    assert losses[0] == losses[1]
    assert all(torch.equal(tensor, weights[1].pop(name)) for name, tensor in weights[0].items())
    assert not weights[1]


def test_each_way_to_end_is_reported(
    server: StageServer, environment: dict[str, str], tmp_path: Path
) -> None:
    assert forked(server, environment, tmp_path / "log", "exit", "3").wait() == 3
    for number in (signal.SIGTERM, signal.SIGKILL):
        stage = forked(server, environment, tmp_path / "log", "sleep")
        assert stage.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            stage.wait(0.01)
        stage.terminate() if number == signal.SIGTERM else os.killpg(stage.pid, number)
        assert stage.wait() == -number
        assert stage.poll() == -number
    assert server.fits(environment)
    assert not server.fits({**environment, "PREFECT_API_URL": "elsewhere"})


def test_a_forked_stage_ends_as_a_fresh_process_does(
    server: StageServer, environment: dict[str, str], tmp_path: Path
) -> None:
    for how, words in {"last words": "last words\n", "raise": "LookupError: not caught\n"}.items():
        fresh = subprocess.run(
            [sys.executable, "-m", PROBE, "end", how],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert (fresh.returncode, fresh.stdout) == (1, b"thread registered ")
        assert forked(server, environment, tmp_path / "log", "end", how).wait() == 1
        told = (tmp_path / "log").read_text()
        assert words in told
        assert told.endswith("thread registered ")


def test_a_stage_does_not_outlive_its_server(environment: dict[str, str], tmp_path: Path) -> None:
    server = StageServer.spawned(environment)
    stage = forked(server, environment, tmp_path / "log", "sleep")
    server_process = psutil.Process(stage.pid).parent()
    assert server_process is not None
    server_process.kill()
    assert stage.wait() == -signal.SIGTERM
    assert not psutil.pid_exists(stage.pid)
    until(lambda: not server.fits(environment))
    with (tmp_path / "log").open("wb") as log:
        assert server.start(PROBE, ("exit", "0"), environment, log) is None


def test_what_a_fork_must_not_copy_is_refused(tmp_path: Path) -> None:
    code = (
        "import socket, sys, threading\n"
        "from flows.stage_server import check_forkable\n"
        "ours, theirs = socket.socketpair()\n"
        "theirs.close()\n"
        "check_forkable(ours.fileno())\n"
        "print('clean')\n"
        "{}\n"
        "check_forkable(ours.fileno())\n"
    )
    for extra, words in {
        "threading.Thread(target=threading.Event().wait, daemon=True).start()": "have started 1 threads",
        f"kept = open({str(tmp_path / 'database')!r}, 'w')": f"have left {tmp_path / 'database'} open",
    }.items():
        ran = subprocess.run(
            [sys.executable, "-c", code.format(extra)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert ran.stdout == "clean\n"
        assert f"NotForkable: imports {words}" in ran.stderr
    with pytest.raises(NotForkable):
        check_forkable(-1)  # pytest itself has files open.
