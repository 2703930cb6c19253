"""A training that goes on from a LoRA: a file, one on the hub, one in MLflow; and what of it counts."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.tracking_settings import TrackingSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import find_adapter
from ltxcore.models.lora.header import AdapterError
from ltxcore.models.lora.locate import find_lora
from ltxcore.stages.train_lora.first_lora import open_first_lora
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.tracking.fetch_lora import fetch_lora
from ltxcore.tracking.mlflow_run import Tracking, tracking_of
from tests.hub_server import FakeHub, Repository
from tests.stages.conftest import Bench
from tests.stages.test_training_stage import train

FILE = "pytorch_lora_weights.safetensors"


def with_lora(bench: Bench, **changes: object) -> Bench:
    lora = LoraSettings(**{**bench.recipe.lora.model_dump(), **changes})
    return Bench(bench.root, bench.recipe.model_copy(update={"lora": lora}))


def with_eval(bench: Bench) -> Bench:
    evaluation = bench.recipe.evaluation.model_copy(update={"eval_share": 0.4, "eval_step_interval": 6})
    return Bench(bench.root, bench.recipe.model_copy(update={"evaluation": evaluation}))


def test_a_training_goes_on_from_what_another_left(bench: Bench, tmp_path: Path) -> None:
    bench = with_eval(bench)
    bench.prepare()
    plain = train_lora_request(bench.ctx)
    first = train(bench)
    mine = tmp_path / "mine.safetensors"
    # A large change, whose effect no rounding can be.
    left = {n: t * (20 if "lora_B" in n else 1) for n, t in load_file(first / "lora" / FILE).items()}
    save_file(left, mine)
    on = with_lora(bench, init_from=str(mine))
    request = train_lora_request(on.ctx)
    assert {key for key in request.keys() | plain.keys() if request.get(key) != plain.get(key)} == {
        "init_from"
    }
    shutil.copy(mine, tmp_path / "renamed.safetensors")
    renamed = with_lora(bench, init_from=str(tmp_path / "renamed.safetensors"))
    assert train_lora_request(renamed.ctx) == request, "the content counts, and no name"

    second = train(on)
    record = [
        [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        for folder in (first, second)
    ]
    assert record[0][0]["eval_loss"] == record[1][0]["eval_loss"], "step 0 is the base"
    found = load_file(second / "lora" / FILE)
    moved = sum(float((found[name] - left[name]).norm()) for name in left)
    assert 0 < moved < 0.2 * sum(float(tensor.norm()) for tensor in left.values())

    left[next(iter(left))] += 1
    save_file(left, mine)
    assert train_lora_request(on.ctx)["init_from"] != request["init_from"]
    with pytest.raises(AdapterError, match="was changed while the training was prepared"):
        open_first_lora(on.ctx, request)


def test_a_file_on_the_hub_is_fetched_with_the_token_and_never_shows_it(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_file({"transformer.proj_in.lora_A.weight": torch.zeros(2, 16)}, tmp_path / "cat.safetensors")
    content = (tmp_path / "cat.safetensors").read_bytes()
    hub.repositories["me/cats"] = Repository(private=True, files={"loras/cat.safetensors": content})
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN")
    name = "me/cats:loras/cat.safetensors"
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as refused:
        find_adapter(name, fetch=True, token="hf_wrongwrong")
    assert "hf_wrongwrong" not in str(refused.value)
    found = find_adapter(name, fetch=True, token=hub.token)
    assert found.read_bytes() == content
    assert hub.token not in caplog.text
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_lora(name, tmp_path) == found, "what is here is found without asking"
    assert len(hub.requests) == asked
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        find_adapter("me/dogs:dog.safetensors", fetch=True, token=hub.token)


@pytest.fixture
def registered(tmp_path: Path) -> tuple[Tracking, Any]:
    """An MLflow in a file, with two versions of a model, the first of which is the champion."""
    from mlflow import MlflowClient

    tracking = tracking_of(TrackingSettings(), tmp_path / "mlflow")
    (tmp_path / "mlflow").mkdir()
    client = MlflowClient(tracking_uri=tracking.uri, registry_uri=tracking.uri)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "mlflow/artifacts").as_uri())
    client.create_registered_model("cats")
    for number in (1.0, 2.0):
        run = client.create_run(experiment).info.run_id
        file = tmp_path / f"{number}" / FILE
        file.parent.mkdir()
        save_file({"transformer.proj_in.lora_A.weight": torch.full((2, 16), number)}, file)
        client.log_artifact(run, str(file), "lora")
        source = f"{client.get_run(run).info.artifact_uri}/lora"
        client.create_model_version("cats", source, run)
    client.set_registered_model_alias("cats", "champion", "1")
    return tracking, client


def value(file: Path) -> float:
    return float(next(iter(load_file(file).values())).mean())


def test_a_model_of_mlflow_is_fetched_followed_and_kept(
    registered: tuple[Tracking, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking, client = registered
    models, name = tmp_path / "models", "models:/cats@champion"
    with pytest.raises(ModelError, match="not on this machine yet"):
        find_lora(name, models)
    assert value(fetch_lora(name, models, tracking)) == 1.0
    assert value(find_lora(name, models)) == 1.0
    client.set_registered_model_alias("cats", "champion", "2")
    assert value(fetch_lora(name, models, tracking)) == 2.0
    assert value(fetch_lora("models:/cats/1", models, tracking)) == 1.0
    run = client.get_model_version("cats", "2").run_id
    assert value(fetch_lora(f"runs:/{run}/lora/{FILE}", models, tracking)) == 2.0
    with pytest.raises(ModelError, match="could not be fetched from MLflow"):
        fetch_lora("models:/dogs/1", models, tracking)
    away = Tracking(f"sqlite:///{tmp_path}/no/such/folder/mlflow.db", None)
    with caplog.at_level(logging.WARNING):
        assert value(fetch_lora(name, models, away)) == 2.0
    assert "the copy from before is used" in caplog.text
    kept = find_lora(name, models)
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not on this machine yet"):
        find_lora(name, models)


def test_a_download_that_takes_too_long_is_given_up_and_leaves_nothing(
    registered: tuple[Tracking, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    going_on = threading.Event()
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda **_: going_on.wait(60))
    with pytest.raises(ModelError, match=r"took longer than 0\.2 s"):
        fetch_lora("models:/cats/1", tmp_path / "models", registered[0], limit_s=0.2)
    going_on.set()
    left = [path for path in (tmp_path / "models").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
