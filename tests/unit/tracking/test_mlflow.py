"""MLflow as best effort: SQLite, dead ports, servers that come back, and processes that are killed."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.recipe import Recipe
from ltxcore.config.tracking_settings import TrackingSettings
from ltxcore.tracking.metrics_log import Position, read_lines
from ltxcore.tracking.mlflow_run import MlflowRun, Sent, Tracking, flat, tracking_of
from ltxcore.tracking.secrets import redact


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow database to copy: making one costs seconds."""
    place = tmp_path_factory.mktemp("mlflow")
    run = MlflowRun(tracking_of(TrackingSettings(), place), "other", "other", place / "state.json")
    assert run.begin() == Sent()
    return place / "mlflow.db"


@pytest.fixture
def tracking(tmp_path: Path, empty_database: Path) -> Tracking:
    place = tmp_path / "work space" / "mlflow"
    place.mkdir(parents=True)
    (place / "mlflow.db").write_bytes(empty_database.read_bytes())
    return tracking_of(TrackingSettings(), place)


def open_run(tracking: Tracking, directory: Path) -> MlflowRun:
    """A new process's view of the run."""
    return MlflowRun(tracking, "ltx2", "night 1", directory / "state.json", retry_after_s=0)


def write_metrics(path: Path, first: int, last: int, offset: float = 0.0, mode: str = "a") -> None:
    with path.open(mode, encoding="utf-8") as file:
        for step in range(first, last + 1):
            line = {
                "step": step,
                "loss": offset + step / 10,
                "audio_loss": None if step % 2 else 0.5,
                "step_s": 2.0,
                "sample_ids": ["clips/a.mp4"],
            }
            file.write(json.dumps(line) + "\n")


def client(tracking: Tracking) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.uri)


def history(tracking: Tracking, run: MlflowRun, metric: str = "loss") -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client(tracking).get_metric_history(run.run_id, metric))


def test_new_lines_are_sent_once(tracking: Tracking, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    run = open_run(tracking, tmp_path)
    assert run.sync(metrics) == Sent()
    write_metrics(metrics, 1, 700)
    assert run.sync(metrics) == Sent(metrics=700 + 350 + 700)
    assert run.sync(metrics) == Sent()
    write_metrics(metrics, 701, 702)
    later = open_run(tracking, tmp_path)
    assert later.sync(metrics).metrics == 5
    assert later.run_id == run.run_id
    assert history(tracking, run) == [(step, step / 10) for step in range(1, 703)]
    assert len(history(tracking, run, "audio_loss")) == 351
    assert "sample_ids" not in client(tracking).get_run(run.run_id).data.metrics
    times = [m.timestamp for m in client(tracking).get_metric_history(run.run_id, "loss")]
    assert max(times) - min(times) == 701 * 2000, "MLflow's time axis is the training's time"


def test_a_half_written_line_waits_for_its_end(tracking: Tracking, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    run = open_run(tracking, tmp_path)
    assert run.sync(metrics).metrics == 1
    with metrics.open("a") as file:
        file.write('ss": 2.0}\n')
    assert run.sync(metrics).metrics == 1
    assert history(tracking, run) == [(1, 1.0), (2, 2.0)]


def test_steps_computed_again_after_a_resume_appear_once(tracking: Tracking, tmp_path: Path) -> None:
    """Training rewrites the file up to its checkpoint and goes on."""
    metrics = tmp_path / "metrics.jsonl"
    write_metrics(metrics, 1, 60)
    open_run(tracking, tmp_path).sync(metrics)
    write_metrics(metrics, 1, 50, mode="w")
    resumed = open_run(tracking, tmp_path)
    assert resumed.sync(metrics).metrics == 0
    write_metrics(metrics, 51, 80)
    assert resumed.sync(metrics).metrics == 20 + 20 + 10
    assert [step for step, _ in history(tracking, resumed)] == list(range(1, 81))


def test_a_file_rewritten_and_longer_than_before_is_read_from_its_beginning(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    write_metrics(metrics, 1, 10)
    place = read_lines(metrics).lines[-1].after
    write_metrics(metrics, 1, 30, offset=0.05, mode="w")
    assert len(read_lines(metrics, place).lines) == 30
    assert len(read_lines(metrics, Position()).lines) == 30
    write_metrics(metrics, 1, 3, mode="w")
    assert len(read_lines(metrics, place).lines) == 3


def test_lines_that_are_no_metrics_are_counted_and_numbers_alone_are_read(
    tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    rows = ['{"step": 1, "lo{"step": 2}', "[1]", '{"loss": 3}', '{"step": true}', "", '{"step": "4"}']
    good = '{"step": 5, "loss": NaN, "up": Infinity, "on": true, "who": "me", "n": 3, "x": {}, "a/b c:d": 1}'
    metrics.write_text("\n".join([*rows, good]) + "\n")
    reading = read_lines(metrics)
    assert reading.unreadable == len(rows)
    assert [line.step for line in reading.lines] == [5]
    assert set(reading.lines[0].numbers) == {"loss", "up", "n", "a/b c:d"}
    run = open_run(tracking, tmp_path)
    assert run.sync(metrics) == Sent(metrics=4)
    assert f"{len(rows)} lines that are no JSON object" in caplog.text
    ((step, loss),) = history(tracking, run)
    assert step == 5
    assert loss != loss, "a loss that is not a number must be seen in MLflow"
    assert history(tracking, run, "a/b c_d") == [(5, 1.0)]


def test_a_line_with_more_metrics_than_a_batch(tracking: Tracking, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    wide = {f"m{number}": float(number) for number in range(1500)}
    metrics.write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n" + json.dumps({"step": 2, **wide}) + "\n")
    run = open_run(tracking, tmp_path)
    assert run.sync(metrics) == Sent(metrics=1501)
    assert history(tracking, run, "m1499") == [(2, 1499.0)]


def test_params_tags_artifacts_and_status(tracking: Tracking, tmp_path: Path) -> None:
    files = [tmp_path / "lora file.safetensors", tmp_path / "loss.png"]
    for file in files:
        file.write_bytes(b"x")
    run = open_run(tracking, tmp_path)
    assert run.begin().error is None
    assert client(tracking).get_run(run.run_id).info.status == "RUNNING"
    many = {f"extra{n}": n for n in range(150)}
    sent = run.log_params({**Recipe().model_dump(mode="json"), **many, "long": "x" * 9000})
    assert sent.error is None
    assert sent.params > 150
    assert run.set_tags({"snapshot": "abc"}) == Sent(tags=1)
    assert run.log_artifacts(files, "lora") == Sent(artifacts=2)
    assert run.log_artifacts(files, "lora") == Sent()
    files[1].write_bytes(b"a better picture")
    assert run.log_artifacts(files, "lora") == Sent(artifacts=1)
    assert run.finish("FINISHED") == Sent()
    found = client(tracking).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "night 1"
    assert found.data.params["training.seed"] == "42"
    assert len(found.data.params["long"]) == 6000
    assert found.data.tags["snapshot"] == "abc"
    kept = tracking.artifact_root / str(run.run_id) / "artifacts" / "lora"  # type: ignore[operator]
    assert sorted(p.name for p in kept.iterdir()) == ["lora file.safetensors", "loss.png"]
    assert (kept / "loss.png").read_bytes() == b"a better picture"
    resumed = open_run(tracking, tmp_path)
    resumed.begin()
    assert client(tracking).get_run(run.run_id).info.status == "RUNNING"
    assert resumed.log_params({"training": {"seed": 42, "max_train_steps": 90}}) == Sent(tags=1)
    assert client(tracking).get_run(run.run_id).data.tags["changed.training.max_train_steps"] == "90"


def test_a_part_that_mlflow_refuses_does_not_hold_up_the_rest(tracking: Tracking, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    write_metrics(metrics, 1, 3)
    run = open_run(tracking, tmp_path)
    run.begin()
    client(tracking).log_param(run.run_id, "seed", "another hand's")
    sent = run.log_params({"seed": 1})
    assert "params refused" in str(sent.error)
    assert run.sync(metrics).metrics == 7
    run.finish("FAILED")
    assert client(tracking).get_run(run.run_id).info.status == "FAILED"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_dead_server_costs_little_and_is_reported_once(
    tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Then the run goes to SQLite, with everything in it once."""
    metrics = tmp_path / "metrics.jsonl"
    dead = Tracking(f"http://user:hunter2@127.0.0.1:{free_port()}", None)
    write_metrics(metrics, 1, 10)
    patient = MlflowRun(dead, "ltx2", "night 1", tmp_path / "state.json", retry_after_s=600)
    began = time.monotonic()
    first = patient.sync(metrics)
    # MLflow by itself tries for four minutes.
    assert time.monotonic() - began < 600
    assert first.metrics == 0
    assert first.error
    assert patient.log_params({"rank": 4}).error == "waiting: MLflow failed a moment ago"
    assert patient.finish("KILLED").error
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("ltxcore")]
    assert len(warnings) == 1
    assert "hunter2" not in caplog.text + first.error + (tmp_path / "state.json").read_text()
    write_metrics(metrics, 11, 20)
    alive = open_run(tracking, tmp_path)
    assert alive.sync(metrics) == Sent(metrics=20 + 10 + 20, params=1)
    assert history(tracking, alive) == [(step, step / 10) for step in range(1, 21)]
    found = client(tracking).get_run(alive.run_id)
    assert found.info.status == "KILLED"
    assert found.data.params == {"rank": "4"}


@pytest.fixture
def babbling_server() -> Iterator[str]:
    """A server that is no MLflow: a proxy's page for everything."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>log in</html>")

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_is_no_mlflow_ends_no_training(babbling_server: str, tmp_path: Path) -> None:
    run = open_run(Tracking(babbling_server, None), tmp_path)
    assert run.sync(tmp_path / "metrics.jsonl").error


def test_a_server_that_hangs_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        run = open_run(Tracking(f"http://127.0.0.1:{silent.getsockname()[1]}", None), tmp_path)
        began = time.monotonic()
        assert run.sync(tmp_path / "metrics.jsonl").error
        assert time.monotonic() - began < 60


def test_a_lost_database_is_filled_again(tracking: Tracking, empty_database: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    write_metrics(metrics, 1, 10)
    run = open_run(tracking, tmp_path)
    run.log_params({"rank": 4})
    run.sync(metrics)
    lost = run.run_id
    other = tmp_path / "other"
    other.mkdir()
    (other / "mlflow.db").write_bytes(empty_database.read_bytes())
    elsewhere = open_run(tracking_of(TrackingSettings(), other), tmp_path)
    assert elsewhere.sync(metrics).metrics == 25
    assert elsewhere.run_id != lost
    assert tracking.artifact_root is not None
    back = tracking.artifact_root.parent / "mlflow.db"
    back.write_bytes(empty_database.read_bytes())
    again = open_run(tracking, tmp_path)
    again.sync(metrics)
    assert history(tracking, again) == [(step, step / 10) for step in range(1, 11)]
    assert client(tracking).get_run(again.run_id).data.params == {"rank": "4"}


def sync_and_die(tracking: Tracking, directory: Path, method: str, at: int) -> None:
    """Sync, and be killed when MLflow's client has answered the `at`-th call of a method."""
    from mlflow import MlflowClient

    real, calls = getattr(MlflowClient, method), []

    def dies(*args: Any, **named: Any) -> Any:
        answer = real(*args, **named)
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(MlflowClient, method, dies)
    open_run(tracking, directory).sync(directory / "metrics.jsonl")


@pytest.mark.parametrize(("method", "call"), [("create_run", 1), ("log_batch", 2)])
def test_killed_after_mlflow_took_it_and_before_that_was_noted(
    method: str, call: int, tracking: Tracking, tmp_path: Path
) -> None:
    """The worst instant: the run made anew would be double, and so would the batch."""
    metrics = tmp_path / "metrics.jsonl"
    write_metrics(metrics, 1, 1000)
    child = multiprocessing.get_context("fork").Process(
        target=sync_and_die, args=(tracking, tmp_path, method, call)
    )
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    run = open_run(tracking, tmp_path)
    assert run.sync(metrics).error is None
    assert history(tracking, run) == [(step, step / 10) for step in range(1, 1001)]
    assert len(history(tracking, run, "audio_loss")) == 500
    experiment = client(tracking).get_experiment_by_name("ltx2")
    assert len(client(tracking).search_runs([experiment.experiment_id])) == 1


@pytest.mark.e2e
def test_a_real_server_that_starts_late_gets_everything_once(tracking: Tracking, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    artifact = tmp_path / "loss.png"
    artifact.write_bytes(b"picture")
    write_metrics(metrics, 1, 600)
    port = free_port()
    remote = tracking_of(TrackingSettings(mlflow_tracking_uri=f"http://127.0.0.1:{port}"), tmp_path)
    assert remote.artifact_root is None
    run = open_run(remote, tmp_path)
    assert run.sync(metrics).error
    assert run.log_artifacts([artifact]).error
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", tracking.uri, "--artifacts-destination", str(tmp_path / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 600
        while (sent := run.sync(metrics)).error and time.monotonic() < deadline:
            time.sleep(0.5)
        assert sent.error is None, (sent, (tmp_path / "server.log").read_text())
        write_metrics(metrics, 601, 610)
        run.sync(metrics)
        assert history(remote, run) == [(step, step / 10) for step in range(1, 611)]
        assert run.finish("FINISHED") == Sent()
        assert [f.path for f in client(remote).list_artifacts(run.run_id)] == ["loss.png"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=300)


def test_secrets_are_in_no_text(monkeypatch: pytest.MonkeyPatch, tracking: Tracking, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    text = "https://me:pw@host/a?token=t123&b=1 hf_abcdefgh and wJalrXUtnFEMI"
    assert redact(text) == "https://***@host/a?token=***&b=1 *** and ***"
    assert redact("loss 3.2 at step 5") == "loss 3.2 at step 5"
    settings = {"hub": {"hub_token": "x", "api_key": "y"}, "text_max_tokens": 1024, "note": "hf_abcdefgh"}
    assert flat(settings) == {
        "hub.hub_token": "***",
        "hub.api_key": "***",
        "text_max_tokens": "1024",
        "note": "***",
    }
    run = open_run(tracking, tmp_path)
    run.log_params(settings)
    run.set_tags({"remark": "used hf_abcdefgh"})
    assert tracking.artifact_root is not None
    stored = (tracking.artifact_root.parent / "mlflow.db").read_bytes()
    assert b"hf_abcdefgh" not in stored + (tmp_path / "state.json").read_bytes()


def test_sqlite_is_in_the_workspace_with_its_artifacts(tmp_path: Path) -> None:
    here = tracking_of(TrackingSettings(), tmp_path / "mlflow")
    assert here.uri == f"sqlite+pysqlite:///file:{tmp_path}/mlflow/mlflow.db?uri=true"
    assert here.artifact_root == tmp_path / "mlflow" / "artifacts"


def test_mlflows_migrations_do_not_silence_our_log(tracking: Tracking, tmp_path: Path) -> None:
    open_run(tracking, tmp_path).begin()
    assert not logging.getLogger("ltxcore.tracking.mlflow_run").disabled
