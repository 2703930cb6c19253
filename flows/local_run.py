"""A flow run on this machine, watched in the terminal: server, flow process, display, summary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from flows.display import StageBars, print_summary
from flows.leash import describe_exit, python_path, start_leashed
from flows.server import LocalServer, ServerError
from ltxcore.store.blobs import write_json
from ltxcore.store.locks import in_use
from ltxcore.store.workspace import Workspace

# What a stage gets for its checkpoint, and a little for Prefect to write it down.
STOP_LIMIT_S = 40.0
INTERRUPTED = 130


class LocalRun:
    """One run of a flow and its folder."""

    def __init__(self, workspace: Workspace, name: str, console: Console) -> None:
        self._workspace, self._name, self._console = workspace, name, console
        self._folder = workspace.run(name)
        self._log = workspace.logs / f"run-{name}.log"

    def execute(self, flow: str, parameters: dict[str, Any], stages: list[str]) -> int:
        """Run a flow to its end and tell how it went. Returns the exit status."""
        with in_use(self._workspace.run_lock(self._folder)):
            return self._execute(flow, parameters, stages)

    def _execute(self, flow: str, parameters: dict[str, Any], stages: list[str]) -> int:
        request = self._folder / "parameters.json"
        write_json(
            request, {**parameters, "workspace": str(self._workspace.root), "pipeline_run": self._name}
        )
        self._console.print(
            f"[bold]{flow}[/], run {self._name}, workspace {escape(str(self._workspace.root))}",
            soft_wrap=True,
        )
        try:
            with self._console.status("starting the Prefect API of the workspace"):
                server = LocalServer(self._workspace.root)
                server.__enter__()
        except ServerError as error:
            self._console.print(str(error), markup=False, style="red")
            return 1
        try:
            code = self._watch(flow, request, server.environment, stages)
        finally:
            server.__exit__(*sys.exc_info())
        return self._report(code)

    def _watch(self, flow: str, request: Path, environment: dict[str, str], stages: list[str]) -> int:
        error = self._folder / "error.txt"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            process = start_leashed(
                [sys.executable, "-m", "flows.embedded", flow, str(request), str(error)],
                {**os.environ, **environment, "PYTHONPATH": python_path()},
                log=log,
            )
            try:
                bars = StageBars(self._folder, stages)
                bars.watch(self._console, lambda: process.poll() is None, time.sleep)
            except KeyboardInterrupt:
                self._interrupt(process)
                return INTERRUPTED
        return process.wait()

    def _interrupt(self, process: subprocess.Popen[bytes]) -> None:
        self._console.print("stopping; a training writes its checkpoint first")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _report(self, code: int) -> int:
        if code == 0:
            print_summary(self._console, self._workspace, self._folder, "make serve")
            return 0
        error = self._folder / "error.txt"
        told = error.read_text().strip() if error.exists() else f"its process {describe_exit(code)}"
        self._console.print(
            f"[red]The run did not complete.[/] Its log: {escape(str(self._log))}", soft_wrap=True
        )
        self._console.print(told, markup=False, highlight=False, soft_wrap=True)
        return code if code > 0 else 1
