"""deploy/prefect.yaml: Prefect drops a misspelt key without a word, so its keys are checked here."""

import inspect
import subprocess
import sys
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel

from flows.child_process import ROOT
from flows.deployment import AUTOMATIONS_FILE, POOLS, PREFECT_FILE
from ltxcore.pipeline.base.contract import STAGES

FILE = yaml.safe_load(PREFECT_FILE.read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {item["name"]: item for item in FILE["deployments"]}


def keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_every_key_is_one_that_prefect_reads() -> None:
    PrefectYamlModel.model_validate(FILE)
    assert set(FILE) - {"definitions"} <= keys(PrefectYamlModel)
    for deployment in DEPLOYMENTS.values():
        assert set(deployment) <= keys(DeploymentConfig)
        assert set(deployment["work_pool"]) <= keys(WorkPoolConfig)
        assert set(deployment.get("concurrency_limit", {})) <= keys(ConcurrencyLimitSpec)
        for schedule in deployment.get("schedules", []):
            assert set(schedule) <= keys(RawScheduleConfig)


def test_every_stage_has_its_deployment_in_its_pool() -> None:
    pools = {name: deployment["work_pool"]["name"] for name, deployment in DEPLOYMENTS.items()}
    # Clicks never wait for the device.
    others = dict.fromkeys(("train-ltx2", "training-save", "training-sample", "training-stop"), "cpu")
    assert pools == {**others, **{stage.name: stage.pool for stage in STAGES}}
    assert set(pools.values()) == set(POOLS)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_is_named_as_its_flow_and_has_its_parameters(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    flow = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]))
    assert flow.name == name
    accepted = inspect.signature(flow.fn).parameters
    assert set(deployment["parameters"]) == set(accepted) & {"workspace", "datasets", "recipe_file"}
    assert all(p.default is not inspect.Parameter.empty for p in accepted.values())


def inputs(schema: dict[str, Any], node: dict[str, Any]) -> int:
    """How many fields the form draws for a parameter."""
    parts = [node, *node.get("allOf", ())]
    for part in parts:
        if "$ref" in part:
            node = schema["definitions"][part["$ref"].rpartition("/")[2]]
    if "properties" not in node:
        return 1
    return sum(inputs(schema, child) for child in node["properties"].values())


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_forms_are_short_and_ask_for_what_the_flow_reads(name: str) -> None:
    flow = load_flow_from_entrypoint(str(ROOT / DEPLOYMENTS[name]["entrypoint"]))
    schema = parameter_schema(flow.fn).model_dump()
    count = sum(inputs(schema, node) for node in schema["properties"].values())
    assert count <= (15 if name == "train-ltx2" else 6)
    without = {"split-audio", "training-save", "training-sample", "training-stop"}
    assert ("recipe_file" in schema["properties"]) == (name not in without)


def test_one_night_at_a_time_and_switched_off() -> None:
    parent = DEPLOYMENTS["train-ltx2"]
    assert parent["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert [schedule["active"] for schedule in parent["schedules"]] == [False]


def test_no_directory_of_this_machine_is_baked_in() -> None:
    assert FILE["pull"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $LTX2_ROOT }}"}}
    ]
    assert str(ROOT) not in PREFECT_FILE.read_text()


def test_the_zombie_automation_waits_for_three_heartbeats() -> None:
    from prefect.automations import AutomationCore

    from flows.environment import prefect_environment

    (zombies,) = yaml.safe_load(AUTOMATIONS_FILE.read_text())["automations"]
    assert set(zombies) <= keys(AutomationCore)
    AutomationCore.model_validate(zombies)
    heartbeat_s = int(prefect_environment("w", given={})["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert zombies["trigger"]["within"] == 3 * heartbeat_s


def test_the_flows_import_no_torch() -> None:
    modules = ", ".join(d["entrypoint"].split(":")[0][:-3].replace("/", ".") for d in DEPLOYMENTS.values())
    code = (
        f"import sys, {modules}; print(sorted({{'torch', 'diffusers', 'transformers'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_pipeline_is_on_the_first_page_of_deployments() -> None:
    """Prefect's page lists ten of them, by name."""
    names = sorted(one["name"] for one in yaml.safe_load(PREFECT_FILE.read_text())["deployments"])
    assert "train-ltx2" in names[:10]
