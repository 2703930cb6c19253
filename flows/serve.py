"""`ltx2 serve`: Prefect server, MLflow server and the workers, as one thing to start and to stop."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil
from rich.console import Console

from flows.environment import LOOPBACK, logs_directory, prefect_environment, prefect_home, worker_environment
from flows.file_server import HEALTH
from flows.leash import ROOT, describe_exit, python_path, start_leashed
from flows.server import LocalServer, ServerError, answers, stop

START_LIMIT_S: Final = 90.0
STOP_LIMIT_S: Final = 8.0
# A cancelled stage has 30 s to write its checkpoint.
CHECKPOINT_LIMIT_S: Final = 35.0
FILES_URL: Final = "LTX2_FILES_URL"
WORKER_LIMITS: Final = {"cpu": 4, "gpu": 1}


@dataclass(frozen=True)
class Service:
    """A child of the supervisor."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def serve(
    workspace: str | Path,
    host: str = LOOPBACK,
    port: int = 4200,
    mlflow_port: int = 5000,
    files_port: int = 4280,
    recipe: dict[str, Any] | None = None,
    datasets: str | None = None,
    console: Console | None = None,
) -> None:
    """Serve one workspace until Ctrl-C or SIGTERM.

    Every child is leashed: none outlives this process, however it ends. On the way out running flow runs
    are cancelled first, so that they can write a checkpoint and none says Running for ever.

    Raises:
        ServerError: a port is taken, the workspace is being served already, or a child did not come up.
    """
    root = Path(workspace).resolve()
    console = console or Console()
    with _interruptible(), _only_one(root), contextlib.ExitStack() as stack:
        try:
            services = _start(stack, root, host, port, mlflow_port, files_port, recipe, datasets, console)
            fallen = _watch(services)
        except KeyboardInterrupt:
            console.print("\nstopping")
            return
    raise ServerError(
        f"{fallen.name} {describe_exit(fallen.process.returncode)}, so everything was stopped. "
        f"See {fallen.log}"
    )


def _start(
    stack: contextlib.ExitStack,
    root: Path,
    host: str,
    port: int,
    mlflow_port: int,
    files_port: int,
    recipe: dict[str, Any] | None,
    datasets: str | None,
    console: Console,
) -> list[Service]:
    for wanted in (port, mlflow_port, files_port):
        _check_port(host, wanted)
    with console.status("starting the MLflow server and the Prefect server"):
        mlflow = _mlflow(root, host, mlflow_port)
        stack.callback(stop, mlflow.process, STOP_LIMIT_S)
        files = _files(root, host, files_port)
        stack.callback(stop, files.process, STOP_LIMIT_S)
        server = stack.enter_context(LocalServer(root, host=host, port=port, ui=True, own=True))
    with console.status("creating the pools, the automation and the deployments"):
        # Prefect is imported here, when PREFECT_API_URL is set.
        from flows.deployment import deploy, prepare_server, render_prefect_file, worker_online

        prepare_server()
        deploy(render_prefect_file(root, recipe, datasets), server.environment)
    since = datetime.now(UTC)
    links = {FILES_URL: f"http://{host}:{files_port}"}
    workers = [_worker(stack, root, server.url, pool, limit, links) for pool, limit in WORKER_LIMITS.items()]
    stack.callback(_checkpoint_running, console)
    with console.status("waiting for the workers and MLflow"):
        _await("The file server", lambda: answers(f"http://{host}:{files_port}{HEALTH}"), [files])
        _await("MLflow", lambda: answers(f"http://{host}:{mlflow_port}/health"), [mlflow])
        for pool, worker in zip(WORKER_LIMITS, workers, strict=True):
            _await(worker.name, partial(worker_online, pool, since), [worker])
    _summary(console, server, f"http://{host}:{mlflow_port}", links[FILES_URL], root)
    if server.process is None:
        raise RuntimeError("the server of `serve` is always its own")
    return [Service("The Prefect server", server.process, server.log_path), mlflow, files, *workers]


def _mlflow(root: Path, host: str, port: int) -> Service:
    home = root / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home}/mlflow.db"),
        *("--artifacts-destination", str(home / "artifacts")),
        # Its guard against DNS rebinding needs the port, or `:*`.
        *("--allowed-hosts", f"localhost:*,{LOOPBACK}:*,{host}:*,{socket.gethostname()}:*"),
    ]
    environment = {
        **os.environ,
        **prefect_environment(root),
        # Without this it keeps ten processes and 1.25 GB for jobs that nobody gives it.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return _service("The MLflow server", command, environment, root, "mlflow.log")


def _files(root: Path, host: str, port: int) -> Service:
    command = [sys.executable, "-m", "flows.file_server", str(root / "stages"), host, str(port)]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    return _service("The file server", command, environment, root, "files.log")


def _worker(
    stack: contextlib.ExitStack, root: Path, api_url: str, pool: str, limit: int, links: dict[str, str]
) -> Service:
    command = [
        *(sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"),
        *("--limit", str(limit), "--name", f"{pool}-{socket.gethostname()}"),
    ]
    environment = {
        **os.environ,
        **worker_environment(root),
        **links,
        "PREFECT_API_URL": api_url,
        "LTX2_ROOT": str(ROOT),
        "PYTHONPATH": python_path(),
    }
    worker = _service(f"The worker of the pool {pool}", command, environment, root, f"worker-{pool}.log")
    stack.callback(stop, worker.process, STOP_LIMIT_S)
    return worker


def _service(name: str, command: list[str], environment: dict[str, str], root: Path, log: str) -> Service:
    path = logs_directory(root) / log
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        return Service(name, start_leashed(command, environment, log=file, cwd=root), path)


def _await(what: str, ready: Callable[[], bool], needed: list[Service]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not ready():
        for service in needed:
            if service.process.poll() is not None:
                end = describe_exit(service.process.returncode)
                raise ServerError(f"{service.name} {end} while starting. See {service.log}")
        if time.monotonic() > deadline:
            raise ServerError(f"{what} is not up after {START_LIMIT_S:.0f} s. See {needed[0].log}")
        time.sleep(0.2)


def _watch(services: list[Service]) -> Service:
    """Wait until a child falls; a restart could not bring back the runs that it took with it."""
    while True:
        for service in services:
            if service.process.poll() is not None:
                return service
        time.sleep(0.5)


def _checkpoint_running(console: Console) -> None:
    """Cancel deployed runs and wait for their end: a worker that stops takes its runs down without a word."""
    from flows.deployment import cancel_running, running_runs

    names = cancel_running("`ltx2 serve` was stopped")
    if names:
        console.print(f"cancelling {', '.join(names)}; up to 30 s for a checkpoint, Ctrl-C again to kill")
    deadline = time.monotonic() + CHECKPOINT_LIMIT_S
    while time.monotonic() < deadline and running_runs():
        time.sleep(0.5)


def _summary(console: Console, server: LocalServer, mlflow_url: str, files_url: str, root: Path) -> None:
    for left, right in (
        ("Prefect", server.url.removesuffix("/api")),
        ("MLflow", mlflow_url),
        ("Galleries", files_url),
        ("Workspace", str(root)),
        ("Logs", str(logs_directory(root))),
        ("Run it", _run_command(server, root)),
        ("Stop", "Ctrl-C"),
    ):
        console.print(f"[bold]{left:<10}[/]{right}", soft_wrap=True, highlight=False)


def _run_command(server: LocalServer, root: Path) -> str:
    """What to type in another terminal; the plugin finds the server of ./workspace by itself."""
    command = "prefect deployment run train-ltx2 --watch"
    return command if root == ROOT / "workspace" else f"PREFECT_API_URL={server.url} {command}"


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServerError(
                f"Port {port} on {host} cannot be used: {error.strerror or error}{_holder_of(port)}. "
                "Stop what holds it, or choose another with --port, --mlflow-port and --files-port."
            ) from error


def _holder_of(port: int) -> str:
    """Who listens on a port, as ` (pid 123: its command)`, or nothing where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                command = " ".join(psutil.Process(connection.pid).cmdline())[:120]
                return f" (pid {connection.pid}: {command})"
    except (psutil.Error, TypeError):
        return ""
    return ""


@contextlib.contextmanager
def _only_one(root: Path) -> Iterator[None]:
    prefect_home(root).mkdir(parents=True, exist_ok=True)
    path = prefect_home(root) / "serve.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ServerError(
                f"The workspace {root} is being served already, by the process {lock.read().strip()}. "
                "Use that one, stop it, or give another --workspace."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT both raise KeyboardInterrupt here, even if we were started with SIGINT ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
