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

from flows.at_once import PIPELINE, finish_at_once
from flows.child_process import describe_exit, python_path, start_child
from flows.display import StageBars, print_summary
from flows.readiness import ServerError
from flows.server import LocalServer
from flows.stage_lines import StageLines
from ltxcore.pipeline.base.contract import stage_named
from ltxcore.pipeline.base.progress import read_progress
from ltxcore.pipeline.base.stamp import read_manifest
from ltxcore.store.blobs import read_json, write_json
from ltxcore.store.workspace import Workspace

# What a stage gets for its checkpoint, and a little for Prefect to write it down.
STOP_LIMIT_S = 40.0
INTERRUPTED = 130


class LocalRun:
    """One run of a flow and its folder.

    Args:
        blocks: whether the flow reads a block, such as a secret, that only a Prefect server has. Where it
            does not, and no server runs, a recorder takes the server's place.
    """

    def __init__(self, workspace: Workspace, name: str, console: Console, *, blocks: bool = False) -> None:
        self._workspace, self._name, self._console = workspace, name, console
        self._blocks = blocks
        self._folder = workspace.run(name)
        self._log = workspace.log_of(self._folder)

    @property
    def folder(self) -> Path:
        """Where the run keeps its recipe and what it did."""
        return self._folder

    def execute(self, flow: str, parameters: dict[str, Any], stages: list[str]) -> int:
        """Run a flow to its end and print how it ended. Returns the exit status."""
        with self._workspace.going_on(self._folder):
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
        if flow == PIPELINE and finish_at_once(self._workspace, self._name, read_json(request)):
            self._watcher(stages).watch(self._console, lambda: False, time.sleep)
            return self._report(0, stages)
        starting = "starting the Prefect API of the workspace"
        if not self._console.is_terminal:
            self._tell(starting)
        try:
            with self._console.status(starting):
                server = LocalServer(self._workspace.root, records=not self._blocks, tell=self._tell)
                server.__enter__()
        except ServerError as error:
            self._console.print(str(error), markup=False, style="red")
            return 1
        try:
            code = self._watch(flow, request, server.environment, stages)
        finally:
            server.__exit__(*sys.exc_info())
        return self._report(code, stages)

    def _tell(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _watch(self, flow: str, request: Path, environment: dict[str, str], stages: list[str]) -> int:
        error = self._folder / "error.txt"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            process = start_child(
                [sys.executable, "-m", "flows.embedded", flow, str(request), str(error)],
                {**os.environ, **environment, "PYTHONPATH": python_path()},
                log=log,
            )
            try:
                view = StageBars if self._console.is_terminal else StageLines
                watcher = view(self._folder, stages)
                watcher.watch(self._console, lambda: process.poll() is None, time.sleep)
            except KeyboardInterrupt:
                self._interrupt(process)
                return INTERRUPTED
        return process.wait()

    def _watcher(self, stages: list[str]) -> StageBars | StageLines:
        shown = StageBars if self._console.is_terminal else StageLines
        return shown(self._folder, stages)

    def _interrupt(self, process: subprocess.Popen[bytes]) -> None:
        self._console.print("stopping; a training writes its checkpoint first")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _report(self, code: int, stages: list[str]) -> int:
        if code == 0:
            print_summary(self._console, self._workspace, self._folder, "make serve")
            return 0
        if code == INTERRUPTED:
            self._tell(f"{self._stopped_at(stages)}. To continue, run the same command again")
            self._tell(f"Its log: {self._log}")
            return code
        error = self._folder / "error.txt"
        message = error.read_text().strip() if error.exists() else f"its process {describe_exit(code)}"
        self._console.print(
            f"[red]The run did not complete.[/] Its log: {escape(str(self._log))}", soft_wrap=True
        )
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)
        return code if code > 0 else 1

    def _stopped_at(self, stages: list[str]) -> str:
        """Where the run was stopped, and what is kept."""
        for name in stages:
            state = read_progress(self._folder, name)
            if state is not None and read_manifest(self._folder, stage_named(name)) is None:
                return f"Stopped in {name}: {state.stopped or 'what it has committed is kept'}"
        return "Stopped before a stage was at work"
