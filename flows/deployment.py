"""Prepares a Prefect server for the pipeline: pools, the GPU limit, the zombie automation, deployments.

Everything can be repeated: it changes nothing that is right already, and nothing that the user has set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import yaml
from prefect import get_client
from prefect.automations import Automation, AutomationCore
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType, Worker
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.child_process import ROOT
from flows.environment import prefect_home
from flows.gpu_lease import ensure_gpu_limit
from flows.readiness import ServerError

PREFECT_FILE: Final = ROOT / "deploy" / "prefect.yaml"
AUTOMATIONS_FILE: Final = ROOT / "deploy" / "automations.yaml"
POOLS: Final = ("cpu", "gpu")


class DeployError(ServerError):
    """`prefect deploy` failed; the text is Prefect's own."""


def prepare_server() -> None:
    """Pools, the GPU limit and the automation, on the server that PREFECT_API_URL names."""
    with get_client(sync_client=True) as client:
        for pool in POOLS:
            _ensure_pool(client, pool)
        ensure_gpu_limit(client)
    for wanted in shipped_automations():
        ensure_automation(wanted)


def shipped_automations(silence_s: float | None = None) -> list[AutomationCore]:
    """The automations of deploy/automations.yaml.

    Args:
        silence_s: for how long a run may say nothing until it counts as dead. None: as the file says.
    """
    document = yaml.safe_load(AUTOMATIONS_FILE.read_text())
    for automation in document["automations"]:
        if silence_s is not None:
            automation["trigger"]["within"] = silence_s
    return [AutomationCore.model_validate(automation) for automation in document["automations"]]


def _ensure_pool(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))


def ensure_automation(core: AutomationCore) -> None:
    """Create by name, or bring up to date: creating alone makes a second one of the same name."""
    try:
        found = cast(Automation, Automation.read(name=core.name))
    except ValueError:
        Automation(**core.model_dump()).create()
        return
    if AutomationCore.model_validate(found.model_dump()) != core:
        Automation(**core.model_dump(), id=found.id).update()


def render_prefect_file(workspace: Path, recipe_file: str | None = None, datasets: str | None = None) -> Path:
    """Write deploy/prefect.yaml into the workspace with the user's values for the parameters it names.

    A schedule that has been switched on or off in the UI stays so: the file's `active` is for the first time.
    """
    document = yaml.safe_load(PREFECT_FILE.read_text())
    values = {"workspace": str(workspace), "recipe_file": recipe_file, "datasets": datasets}
    for deployment in document["deployments"]:
        for name in deployment["parameters"]:
            if values[name] is not None:
                deployment["parameters"][name] = values[name]
        for schedule in deployment.get("schedules", ()):
            schedule["active"] = _switch(deployment["name"], schedule)
    rendered = prefect_home(workspace) / "prefect.yaml"
    rendered.write_text(yaml.safe_dump(document, sort_keys=False))
    return rendered


def _switch(name: str, schedule: dict[str, Any]) -> bool:
    """Whether a schedule is on: as the server has it, or as the file says where the server has none."""
    with get_client(sync_client=True) as client:
        try:
            known = client.read_deployment_by_name(f"{name}/{name}").schedules
        except ObjectNotFound:
            known = []
    return next((s.active for s in known if s.slug == schedule["slug"]), bool(schedule["active"]))


def deploy(prefect_file: Path, environment: dict[str, str]) -> None:
    """Create or update every deployment of a file.

    `--all`, never `--name`: with a default work pool set somewhere, `--name` ignores the file's `work_pool`.

    Raises:
        DeployError: Prefect refused.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt"),
            *("deploy", "--all", "--prefect-file", str(prefect_file)),
        ],
        cwd=ROOT,
        env={**os.environ, **environment, "LTX2_ROOT": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise DeployError(f"prefect deploy failed (status {done.returncode}):\n{done.stdout}\n{done.stderr}")


def worker_online(pool: str, since: datetime) -> bool:
    """Whether a worker of this pool has reported since then; Prefect calls a dead one online for a while."""
    with get_client(sync_client=True) as client:
        answer = client.request(
            "POST",
            "/work_pools/{work_pool_name}/workers/filter",
            path_params={"work_pool_name": pool},
            json={},
        )
    workers = [Worker.model_validate(item) for item in answer.json()]
    return any(w.last_heartbeat_time is not None and w.last_heartbeat_time > since for w in workers)


def running_runs() -> list[FlowRun]:
    """The runs of deployments that a worker has in hand."""
    wanted = {
        "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}},
        "deployment_id": {"is_null_": False},
    }
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted))


def cancel_running(reason: str) -> list[str]:
    """Ask the workers to cancel what they run; returns the runs' names without waiting for their end."""
    runs = running_runs()
    with get_client(sync_client=True) as client:
        for run in runs:
            if run.state is not None and not run.state.is_cancelling():
                client.set_flow_run_state(
                    run.id, State(type=StateType.CANCELLING, name="Cancelling", message=reason)
                )
    return [run.name for run in runs]
