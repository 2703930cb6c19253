"""One run in MLflow, with best effort: what could not be sent waits on disk for the next sync."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from ltxcore.config.tracking_settings import TrackingSettings
from ltxcore.deadline import CALL_LIMIT_S
from ltxcore.store.fingerprint import FileIdentity, fingerprint
from ltxcore.store.sqlite_url import sqlite_url
from ltxcore.tracking.metrics_log import Line, read_lines
from ltxcore.tracking.run_state import Artifact, Delivered, Status, load_state, save_state
from ltxcore.tracking.secrets import HIDDEN, is_secret, redact
from ltxcore.tracking.timed_client import TimedClient

log = logging.getLogger(__name__)

KEY_TAG: Final = "ltx2_run_key"
MAX_METRICS, MAX_PARAMS, MAX_TAGS = 1000, 100, 100
"""MLflow's limits of one log_batch."""
MAX_VALUE_CHARS, MAX_KEY_CHARS = 6000, 250
# MLflow's own defaults retry a dead server for four minutes within one call.
ENVIRONMENT: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}
LONGEST_WAIT_S: Final = 600.0
_NOT_IN_A_KEY = re.compile(r"[^\w.\-/ ]")


@dataclass(frozen=True)
class Tracking:
    """Where runs are recorded. `artifact_root` is None where a server keeps artifacts in its own place."""

    uri: str
    artifact_root: Path | None

    @property
    def remote(self) -> bool:
        """Whether a server is asked, not a database in a file."""
        return _is_remote(self.uri)


def tracking_of(settings: TrackingSettings, mlflow_directory: Path) -> Tracking:
    """The tracking server of a recipe, or SQLite in the workspace, which needs no server.

    The place of artifacts is explicit: with a SQLite URI MLflow would put them into the current directory.
    """
    uri = settings.mlflow_tracking_uri or sqlite_url(mlflow_directory / "mlflow.db")
    return Tracking(uri, None if _is_remote(uri) else mlflow_directory.resolve() / "artifacts")


def _is_remote(uri: str) -> bool:
    return uri.startswith(("http://", "https://", "databricks"))


@dataclass(frozen=True)
class Sent:
    """What one sync sent. `error` says why something is still waiting, None where nothing is."""

    metrics: int = 0
    params: int = 0
    tags: int = 0
    artifacts: int = 0
    error: str | None = None


class MlflowRun:
    """A run that outlives crashes of the training and of the server.

    Every call records what MLflow should have and then sends what has not arrived yet. No call raises because
    of MLflow; a failure is logged once, reported in `Sent.error`, and made up for by a later call.

    A metric's step is sent once. Training that resumes from an earlier checkpoint computes the same steps
    again; they are skipped, since MLflow would draw both points. The metrics file stays the whole record.

    Args:
        tracking: server and place of artifacts.
        experiment, run_name: as MLflow shows them.
        state_file: remembers the run between processes; one for each run.
        retry_after_s: how long a failed server is left alone, so that a hanging one cannot slow training;
            twice as long after each further failure, up to ten minutes.
        call_limit_s: how long one call to a server may take in all.

    Raises:
        ValueError: the state file holds something else.
    """

    def __init__(
        self,
        tracking: Tracking,
        experiment: str,
        run_name: str,
        state_file: Path,
        retry_after_s: float = 30.0,
        call_limit_s: float = CALL_LIMIT_S,
    ) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._tracking, self._experiment, self._run_name = tracking, experiment, run_name
        self._file, self._state = state_file, load_state(state_file)
        self._retry_after_s = self._wait_s = retry_after_s
        self._call_limit_s = call_limit_s
        self._not_before = 0.0
        self._failing = False
        self._client_made: Any = None
        server = fingerprint([tracking.uri, experiment])
        if self._state.delivered.server != server:
            self._state = self._state.deliver(**dict(Delivered(server=server)))

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, None before it was first reached."""
        return self._state.delivered.run_id

    @property
    def experiment_id(self) -> str | None:
        """The id that MLflow gave the experiment; None until it is known."""
        return self._state.delivered.experiment_id

    def begin(self) -> Sent:
        """Set the MLflow run to RUNNING, reopening it if it had ended."""
        return self._want(status="RUNNING")

    def sync(self, metrics_jsonl: Path) -> Sent:
        """Send the new lines of a metrics file, and everything else that waits."""
        files = self._state.wanted.metrics_files
        return self._want(metrics_files=tuple(dict.fromkeys((*files, str(metrics_jsonl.resolve())))))

    def log_params(self, params: Mapping[str, Any]) -> Sent:
        """Record parameters; nested mappings become dotted names, values are cut at 6000 characters.

        MLflow never changes a parameter. A value that differs on a resumed run becomes the tag
        `changed.<name>`.
        """
        return self._want(params={**self._state.wanted.params, **flat(params)})

    def set_tags(self, tags: Mapping[str, str]) -> Sent:
        """Set or replace tags."""
        clean = {_key(name): redact(value)[:MAX_VALUE_CHARS] for name, value in tags.items()}
        return self._want(tags={**self._state.wanted.tags, **clean})

    def log_artifacts(self, files: Iterable[Path], folder: str = "") -> Sent:
        """Keep files under a folder of the run's artifacts; one that changed since is sent again.

        Raises:
            FileNotFoundError: a file is not there now.
        """
        new = [
            Artifact(path=str(file.resolve()), folder=folder, identity=FileIdentity.of(file))
            for file in files
        ]
        replaced = {(artifact.path, artifact.folder) for artifact in new}
        kept = [a for a in self._state.wanted.artifacts if (a.path, a.folder) not in replaced]
        return self._want(artifacts=(*kept, *new))

    def finish(self, status: Status) -> Sent:
        """End the run, sending all that waits even if the server failed a moment ago."""
        self._not_before = 0.0
        return self._want(status=status)

    def _want(self, **changes: Any) -> Sent:
        self._state = self._state.want(**changes)
        save_state(self._file, self._state)
        if time.monotonic() < self._not_before:
            return Sent(error="waiting: MLflow failed a moment ago")
        return self._send()

    def _send(self) -> Sent:
        """Send everything that waits, part by part; a refused part does not hold up the others."""
        from mlflow.exceptions import MlflowException

        parts: dict[str, Callable[[], int]] = {
            "metrics": self._send_metrics,
            "params": self._send_params,
            "tags": self._send_tags,
            "artifacts": self._send_artifacts,
        }
        counts: dict[str, Any] = {}
        refusals: list[str] = []
        try:
            self._open_run()
            for name, part in parts.items():
                try:
                    counts[name] = part()
                except MlflowException as error:
                    if _code(error) != "INVALID_PARAMETER_VALUE":
                        raise
                    refusals.append(f"{name} refused: {_reason(error)}")
                finally:
                    save_state(self._file, self._state)
            self._send_status()
        except Exception as error:  # noqa: BLE001 - no fault of a tracking server may end a training
            self._forget_lost_run(error)
            return Sent(**counts, error=self._failed(_reason(error)))
        if refusals:
            return Sent(**counts, error=self._failed("; ".join(refusals)))
        if self._failing:
            log.info("MLflow at %s answers again; nothing waits", redact(self._tracking.uri))
        self._failing = False
        self._wait_s = self._retry_after_s
        return Sent(**counts)

    def _open_run(self) -> None:
        if self.run_id is not None:
            return
        client = self._client()
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            root = self._tracking.artifact_root
            place = None if root is None else root.as_uri()
            experiment_id = client.create_experiment(self._experiment, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
        known = client.search_runs([experiment_id], f"tags.{KEY_TAG} = '{self._state.key}'", max_results=1)
        run = (
            known[0]
            if known
            else client.create_run(
                experiment_id,
                start_time=self._state.started_ms,
                tags={KEY_TAG: self._state.key},
                run_name=self._run_name,
            )
        )
        self._delivered(run_id=run.info.run_id, experiment_id=experiment_id)
        save_state(self._file, self._state)

    def _send_metrics(self) -> int:
        return sum(self._send_metrics_file(file) for file in self._state.wanted.metrics_files)

    def _send_metrics_file(self, file: str) -> int:
        reading = read_lines(Path(file), self._state.delivered.positions.get(file))
        if reading.unreadable:
            log.warning("%s has %d lines that are no JSON object with a step", file, reading.unreadable)
        count, batch, steps = 0, list[Any](), dict(self._state.delivered.last_steps)
        for number, line in enumerate(reading.lines):
            batch += self._new_metrics(line, steps)
            last = number == len(reading.lines) - 1
            if last or len(batch) + len(reading.lines[number + 1].numbers) > MAX_METRICS:
                # A line may hold more than a batch. A crash between sending and saving repeats the batch
                # exactly, and MLflow drops exact repetitions.
                for chunk in _chunks(batch, MAX_METRICS):
                    self._client().log_batch(self.run_id, metrics=chunk)
                count, batch = count + len(batch), []
                positions = {**self._state.delivered.positions, file: line.after}
                self._delivered(positions=positions, last_steps=dict(steps))
                save_state(self._file, self._state)
        return count

    def _new_metrics(self, line: Line, last_steps: dict[str, int]) -> list[Any]:
        """The metrics of a line that were not sent yet; notes them in `last_steps`.

        The time is the run's beginning plus its training time, not now: sent again, it is the same metric.
        """
        from mlflow.entities import Metric

        at_ms = self._state.started_ms + round(line.after.elapsed_s * 1000)
        found = []
        for name, value in line.numbers.items():
            key = _key(name)
            if line.step > last_steps.get(key, -1):
                last_steps[key] = line.step
                found.append(Metric(key, value, at_ms, line.step))
        return found

    def _send_params(self) -> int:
        from mlflow.entities import Param

        delivered = self._state.delivered.params
        new = {name: value for name, value in self._state.wanted.params.items() if name not in delivered}
        for chunk in _chunks(new.items(), MAX_PARAMS):
            self._client().log_batch(self.run_id, params=[Param(name, value) for name, value in chunk])
            self._delivered(params={**self._state.delivered.params, **dict(chunk)})
        return len(new)

    def _send_tags(self) -> int:
        from mlflow.entities import RunTag

        wanted, delivered = self._state.wanted, self._state.delivered
        changed = {
            f"changed.{name}": value
            for name, value in wanted.params.items()
            if delivered.params.get(name, value) != value
        }
        tags = {**wanted.tags, **changed}
        new = {name: value for name, value in tags.items() if delivered.tags.get(name) != value}
        for chunk in _chunks(new.items(), MAX_TAGS):
            self._client().log_batch(self.run_id, tags=[RunTag(name, value) for name, value in chunk])
            self._delivered(tags={**self._state.delivered.tags, **dict(chunk)})
        return len(new)

    def _send_artifacts(self) -> int:
        delivered = self._state.delivered.artifacts
        new = [artifact for artifact in self._state.wanted.artifacts if artifact not in delivered]
        for artifact in new:
            if Path(artifact.path).is_file():
                self._client().log_artifact(self.run_id, artifact.path, artifact.folder or None)
            else:
                log.warning("%s is gone before MLflow could be given it", artifact.path)
            self._delivered(artifacts=(*self._state.delivered.artifacts, artifact))
        return len(new)

    def _send_status(self) -> None:
        wanted = self._state.wanted.status
        if wanted is None or wanted == self._state.delivered.status:
            return
        if wanted == "RUNNING":
            self._client().update_run(self.run_id, status=wanted)
        else:
            self._client().set_terminated(self.run_id, status=wanted)
        self._delivered(status=wanted)
        save_state(self._file, self._state)

    def _delivered(self, **changes: Any) -> None:
        self._state = self._state.deliver(**changes)

    def _forget_lost_run(self, error: BaseException) -> None:
        """If the server no longer has the run, make the next call create it again with everything in it."""
        if self.run_id is not None and _code(error) == "RESOURCE_DOES_NOT_EXIST":
            self._delivered(**dict(Delivered(server=self._state.delivered.server)))
            save_state(self._file, self._state)

    def _failed(self, reason: str) -> str:
        self._not_before = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, max(LONGEST_WAIT_S, self._retry_after_s))
        if not self._failing:
            log.warning(
                "MLflow at %s took not everything: %s. The rest waits in %s and goes with a later sync",
                redact(self._tracking.uri),
                reason,
                self._file,
            )
        self._failing = True
        return reason

    def _client(self) -> Any:
        if self._tracking.artifact_root is not None:
            # SQLite makes a database, but not the directory that it lies in.
            self._tracking.artifact_root.parent.mkdir(parents=True, exist_ok=True)
        if self._client_made is None:
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=self._tracking.uri)
            self._client_made = TimedClient(client, self._call_limit_s) if self._tracking.remote else client
        return self._client_made


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and texts MLflow takes; secrets are hidden."""
    found: dict[str, str] = {}
    for name, value in params.items():
        key = _key(f"{prefix}{name}")
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[key] = HIDDEN if is_secret(key) else redact(str(value))[:MAX_VALUE_CHARS]
    return found


def _key(name: str) -> str:
    """A name with only the characters that MLflow allows everywhere."""
    return _NOT_IN_A_KEY.sub("_", name)[:MAX_KEY_CHARS]


def _chunks(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _code(error: BaseException) -> str:
    return str(getattr(error, "error_code", ""))


def _reason(error: BaseException) -> str:
    """The first line of an error, without secrets."""
    return redact(next(iter(str(error).splitlines()), "") or type(error).__name__)
