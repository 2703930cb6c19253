"""`ltx2 serve`: starts and stops Prefect server, MLflow server and workers together."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import psutil
from rich.console import Console
from rich.markup import escape

from flows.child_process import ROOT, describe_exit, python_path, start_child
from flows.database_url import shown_database
from flows.environment import LOOPBACK, logs_directory, prefect_environment, prefect_home, worker_environment
from flows.file_server import HEALTH
from flows.guard.hosts import family_of, reached_at, shown_at
from flows.guard.sign_in import make_link
from flows.leftovers import worker_name
from flows.readiness import ServerError, Service, await_ready
from flows.secret import server_environment, server_secret
from flows.server import LocalServer, answers
from flows.supervision import Supervised, watch

STOP_LIMIT_S: Final = 8.0
# A cancelled stage has 30 s to write its checkpoint.
CHECKPOINT_LIMIT_S: Final = 35.0
FILES_URL: Final = "LTX2_FILES_URL"
MLFLOW_URL: Final = "LTX2_MLFLOW_URL"
WORKER_LIMITS: Final = {"cpu": 4, "gpu": 1}


def serve(
    workspace: str | Path,
    host: str = LOOPBACK,
    port: int = 4200,
    mlflow_port: int = 5000,
    files_port: int = 4280,
    recipe_file: str | None = None,
    datasets: str | None = None,
    database: str = "",
    console: Console | None = None,
) -> None:
    """Serve one workspace until Ctrl-C or SIGTERM.

    Every child dies with this process, however it ends, and one that falls is started again. On the way out
    running flow runs are cancelled first, so that they can write a checkpoint and none says Running for ever.
    `database` is where Prefect keeps its runs, an address from `asked_database`; empty: in the workspace.

    Raises:
        ServerError: a port is taken, the workspace is being served already, the database cannot be used, a
            child did not come up, or one fell that cannot be started again.
    """
    root = Path(workspace).resolve()
    console = console or Console()
    with _interruptible(), _only_one(root), contextlib.ExitStack() as stack:
        try:
            services = _start(
                stack, root, host, port, mlflow_port, files_port, recipe_file, datasets, database, console
            )
            fallen = watch(services, _tell(console))
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
    recipe_file: str | None,
    datasets: str | None,
    database: str,
    console: Console,
) -> list[Supervised]:
    for wanted in (port, mlflow_port, files_port):
        _check_port(host, wanted)
    tell = _tell(console)
    secret = server_secret(prefect_home(root))
    with console.status("starting the MLflow server and the Prefect server"):
        mlflow = _supervised(stack, partial(_mlflow, root, host, mlflow_port, secret))
        files = _supervised(stack, partial(_files, root, host, files_port, secret))
        server = stack.enter_context(
            LocalServer(root, host=host, port=port, ui=True, own=True, database=database, tell=tell)
        )
    with console.status("creating the pools, the automation and the deployments"):
        # Prefect is imported here, when PREFECT_API_URL is set.
        from flows.deployment import deploy, prepare_server, render_prefect_file, worker_online

        prepare_server()
        deploy(render_prefect_file(root, recipe_file, datasets), server.environment)
    since = datetime.now(UTC)
    here, shown = (f"http://{name}" for name in (reached_at(host), shown_at(host)))
    links = {FILES_URL: f"{shown}:{files_port}", MLFLOW_URL: f"{shown}:{mlflow_port}"}
    workers = [
        _supervised(stack, partial(_worker, root, server.url, pool, limit, links))
        for pool, limit in WORKER_LIMITS.items()
    ]
    stack.callback(_checkpoint_running, console, server)
    with console.status("waiting for the workers and MLflow"):
        await_ready("the file server", lambda: answers(f"{here}:{files_port}{HEALTH}"), [files.service], tell)
        await_ready("MLflow", lambda: answers(f"{here}:{mlflow_port}/health"), [mlflow.service], tell)
        for pool, worker in zip(WORKER_LIMITS, workers, strict=True):
            await_ready(worker.service.name, partial(worker_online, pool, since), [worker.service], tell)
    link = make_link(prefect_home(root), f"{shown}:{port}")
    _summary(console, link, f"{shown}:{mlflow_port}", links[FILES_URL], root, database)
    if server.process is None:
        raise RuntimeError("the server of `serve` is always its own")
    # What workers and runs hold of a fallen Prefect server is not what another one knows.
    prefect = Supervised(Service("The Prefect server", server.process, server.log_path))
    return [prefect, mlflow, files, *workers]


def _tell(console: Console) -> Callable[[str], None]:
    return partial(console.print, markup=False, highlight=False, soft_wrap=True)


def _supervised(stack: contextlib.ExitStack, start: Callable[[], Service]) -> Supervised:
    child = Supervised(start(), start)
    stack.callback(child.stop, STOP_LIMIT_S)
    return child


def _mlflow(root: Path, host: str, port: int, secret: str) -> Service:
    command = [sys.executable, "-m", "flows.guard.mlflow_server", host, str(port), str(root / "mlflow")]
    return _service("The MLflow server", command, _guarded_environment(root, secret), root, "mlflow.log")


def _files(root: Path, host: str, port: int, secret: str) -> Service:
    command = [sys.executable, "-m", "flows.file_server", str(root / "stages"), host, str(port)]
    return _service("The file server", command, _guarded_environment(root, secret), root, "files.log")


def _guarded_environment(root: Path, secret: str) -> dict[str, str]:
    given = {**os.environ, **prefect_environment(root), "PYTHONPATH": python_path()}
    return server_environment(secret, given)


def _worker(root: Path, api_url: str, pool: str, limit: int, links: dict[str, str]) -> Service:
    command = [
        *(sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"),
        *("--limit", str(limit), "--name", worker_name(pool)),
    ]
    environment = {
        **os.environ,
        **worker_environment(root),
        **links,
        "PREFECT_API_URL": api_url,
        "LTX2_ROOT": str(ROOT),
        "PYTHONPATH": python_path(),
    }
    return _service(f"The worker of the pool {pool}", command, environment, root, f"worker-{pool}.log")


def _service(name: str, command: list[str], environment: dict[str, str], root: Path, log: str) -> Service:
    path = logs_directory(root) / log
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        return Service(name, start_child(command, environment, log=file, cwd=root), path)


def _checkpoint_running(console: Console, server: LocalServer) -> None:
    """Cancel deployed runs and wait for their end: a worker that stops takes its runs down without a word."""
    if server.process is None or server.process.poll() is not None:
        return  # It has fallen and can pass nothing on; the next start puts the runs right.
    from flows.deployment import cancel_running, running_runs

    names = cancel_running("`ltx2 serve` was stopped")
    if names:
        console.print(f"cancelling {', '.join(names)}; up to 30 s for a checkpoint, Ctrl-C again to kill")
    deadline = time.monotonic() + CHECKPOINT_LIMIT_S
    while time.monotonic() < deadline and running_runs():
        time.sleep(0.5)


def _summary(console: Console, link: str, mlflow_url: str, files_url: str, root: Path, database: str) -> None:
    for left, right in (
        ("Prefect", link),
        (
            "",
            "this link signs one browser in, here, in MLflow and the galleries; `ltx2 sign-in` makes another",
        ),
        # Its first page is about language models.
        ("MLflow", f"{mlflow_url}/#/experiments?workflowType=machine_learning"),
        ("Galleries", files_url),
        ("Workspace", str(root)),
        *([("Database", shown_database(database))] if database else []),
        ("Logs", str(logs_directory(root))),
        ("Run it", _run_command(root)),
        ("Stop", "Ctrl-C"),
    ):
        console.print(f"[bold]{left:<10}[/]{escape(right)}", soft_wrap=True, highlight=False)


def _run_command(root: Path) -> str:
    """The command for another terminal; the plugin finds the server of ./workspace by itself."""
    command = "prefect deployment run train-ltx2 --watch"
    return command if root == ROOT / "workspace" else f"LTX2_WORKSPACE={shlex.quote(str(root))} {command}"


def _check_port(host: str, port: int) -> None:
    try:
        family = family_of(host)
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise ServerError(
            f"--host {host} is not an address of this machine ({error.strerror or error}). "
            "Write one of its addresses, such as 127.0.0.1, or 0.0.0.0 for all of them."
        ) from error
    with socket.socket(family) as probe:
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
    prefect_home(root).mkdir(parents=True, exist_ok=True, mode=0o700)
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
