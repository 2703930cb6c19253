"""The units of deploy/systemd: what their command lines do together, also after a reboot."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.child_process import ROOT
from flows.guard.hosts import free_port
from flows.server import healthy
from tests.e2e.serving import until

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]

UNITS = ROOT / "deploy" / "systemd"
POOL = "cpu"


class Machine:
    """A machine on which the units are started; what they name is in a place of the test's own."""

    def __init__(self, root: Path, fresh_workspace: Path) -> None:
        self.workspace = root / "workspace"
        shutil.copytree(fresh_workspace, self.workspace)
        self.port = free_port()
        self._log = root / "units.log"
        self._here = {
            "/opt/ltx2-flows/.venv/bin/python": sys.executable,
            "/opt/ltx2-flows": str(ROOT),
            "/srv/ltx2": str(self.workspace),
            "127.0.0.1 4200": f"127.0.0.1 {self.port}",
            "127.0.0.1:4200": f"127.0.0.1:{self.port}",
            "ltx2:SECRET": f"ltx2:{secrets.token_hex(32)}",
            "%H": socket.gethostname(),
        }
        text = (UNITS / "ltx2-server.service").read_text()
        # What /etc/ltx2.env is to hold, by the head of the unit.
        self.variables = dict(re.findall(r"^#   (\w+)=(\S+)", self._placed(text), re.MULTILINE))

    def _placed(self, text: str) -> str:
        for theirs, ours in self._here.items():
            text = text.replace(theirs, ours)
        return text

    @property
    def environment(self) -> dict[str, str]:
        """As systemd gives it: little beside the file."""
        return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **self.variables}

    def start(self, name: str, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
        text = self._placed((UNITS / f"{name}.service").read_text()).partition("[Service]")[2]
        lines = [line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line)]
        own = dict(value.split("=", 1) for key, value in lines if key == "Environment")
        service = dict(lines)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                shlex.split(service["ExecStart"]),
                cwd=service["WorkingDirectory"],
                env={**self.environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        stack.callback(kill, process)
        return process

    def start_server(self, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
        server = self.start("ltx2-server", stack)
        until(lambda: healthy(f"http://127.0.0.1:{self.port}/api") or server.poll() is not None, 900)
        assert server.poll() is None, self._log.read_text()
        return server

    def ask(self, question: Callable[[Any], Any]) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        url, secret = self.variables["PREFECT_API_URL"], self.variables["PREFECT_API_AUTH_STRING"]
        with SyncPrefectClient(url, auth_string=secret) as client:
            return question(client)

    def state(self, run: Any) -> Any:
        return self.ask(lambda client: client.read_flow_run(run)).state


def test_a_reboot_leaves_no_run_that_says_running(tmp_path: Path, fresh_workspace: Path) -> None:
    machine = Machine(tmp_path, fresh_workspace)
    with contextlib.ExitStack() as stack:
        server = machine.start_server(stack)
        run = machine.ask(lambda client: start_a_sleeper(client, tmp_path))
        stack.callback(lambda: [kill(process) for process in processes_of(run)])
        worker = machine.start(f"ltx2-worker-{POOL}", stack)
        until(lambda: (tmp_path / "trace").exists(), 600)

        # The server alone is started anew: the worker and its run go on.
        kill(server)
        server = machine.start_server(stack)
        assert machine.state(run).is_running(), machine.state(run)

        for process in (server, worker, *processes_of(run)):
            kill(process)
        machine.start_server(stack)
        assert machine.state(run).is_crashed(), machine.state(run)


def start_a_sleeper(client: Any, place: Path) -> Any:
    """A deployed run that sleeps for two minutes."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    deployment = client.create_deployment(
        client.create_flow_from_name("second-stage"),
        "sleeper",
        work_pool_name=POOL,
        entrypoint="tests/stages/fake_flows.py:second_stage",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        parameters={"workspace": str(place), "mode": "sleep"},
    )
    return client.create_flow_run_from_deployment(deployment).id


def processes_of(run: Any) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # It has just ended.
    return found


def kill(process: subprocess.Popen[bytes] | psutil.Process) -> None:
    """As a power cut does it."""
    process.kill()
    process.wait(300)
