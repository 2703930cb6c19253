"""A run of the pipeline with nothing to do, finished without a server and without another process.

Its history is written as a recorder would write it: one flow run, with its tables and links. Imports nothing
of Prefect.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from flows.environment import prefect_home
from flows.listeners import somebody_listens
from flows.recorder.journal import Journal
from flows.recorder.records import Object, new_object, new_state, now
from ltxcore.config.overrides import Overrides
from ltxcore.execution.execution import passed_over
from ltxcore.execution.kept_job import keep_job
from ltxcore.jobs.pipeline import begin_run
from ltxcore.jobs.report.run_page import DESCRIPTION, KEY, RunPage
from ltxcore.jobs.whole_run.ending import File, Table, end
from ltxcore.jobs.whole_run.pass_over import pass_over
from ltxcore.jobs.whole_run.run_name import dataset_ids, run_name, run_tags
from ltxcore.pipeline.base.context import context_here
from ltxcore.store.workspace import Workspace

log = logging.getLogger(__name__)
PIPELINE: Final = "train-ltx2"


def finish_at_once(workspace: Workspace, name: str, parameters: dict[str, Any]) -> bool:
    """Finish a run if every stage is up to date; False where there is work, or somebody may be looking.

    Args:
        name: of the run's folder.
        parameters: of the flow train-ltx2.
    """
    began = now()
    run = workspace.run(name)
    try:
        if somebody_listens(prefect_home(workspace.root)):
            return False
        job = keep_job(run, parameters["recipe_file"], Overrides(), parameters["datasets"])
        if job.datasets is None:
            return False
        kept = job.datasets
        ctx = context_here(workspace, job.recipe, kept.file, datasets_origin=kept.origin)
        passed = pass_over(ctx, run)
    except (ValueError, LookupError, RuntimeError, OSError) as error:
        # The run itself comes upon it, and tells it where it is looked for.
        log.debug("%s is not passed over: %r", name, error)
        return False
    if passed is None:
        return False
    ctx, entries = passed
    begin_run(ctx, run)
    shown = list(end(ctx, run))
    page = RunPage(ctx, run, lambda file: file.resolve().as_uri()).markdown("Done: nothing had changed")
    moment = datetime.fromisoformat(began).astimezone()
    called = run_name(parameters["recipe_file"], dataset_ids(ctx), moment)
    history = History(Journal(prefect_home(workspace.root)), began, called, run_tags(ctx))
    history.write(parameters, [passed_over(entry) for entry in entries], shown, page)
    return True


@dataclass
class History:
    """What Prefect's UI will show of a run that is over."""

    journal: Journal
    began: str
    name: str
    tags: list[str]
    flow: Object = field(default_factory=lambda: new_object({"name": PIPELINE}, now()))

    def write(
        self, parameters: dict[str, Any], lines: list[str], shown: list[Table | File], page: str
    ) -> None:
        """Write the run: it began when this object says, and is complete now."""
        run = new_object({"flow_id": self.flow["id"], "parameters": parameters}, self.began)
        run |= {"name": self.name, "tags": sorted(self.tags)}
        self._entry("flow", self.flow)
        self._entry("flow run", run)
        self._entry("state", new_state({"type": "RUNNING"}, self.began), run["id"])
        of_run = {"flow_run_id": run["id"], "task_run_id": None}
        line = {"name": "prefect.flow_runs", "level": logging.INFO, **of_run}
        self._entry("logs", [{**line, "timestamp": now(), "message": message} for message in lines])
        for one in shown:
            self._entry("artifact", new_object({**as_artifact(one), **of_run}, now()))
        described = {"type": "markdown", "key": KEY, "description": DESCRIPTION, "data": page}
        self._entry("artifact", new_object({**described, **of_run}, now()))
        self._entry("state", new_state({"type": "COMPLETED"}, now()), run["id"])
        self.journal.close()

    def _entry(self, what: str, content: Any, of: str | None = None) -> None:
        entry = {"what": what, "told": content} if of is None else {"what": what, "of": of, "told": content}
        self.journal.write(entry, lasting=what == "state")


def as_artifact(shown: Table | File) -> Object:
    """What is shown, as Prefect's API takes it."""
    if isinstance(shown, Table):
        kind, data = "table", json.dumps(shown.rows)
    else:
        kind, data = "markdown", f"[{shown.path.name}]({shown.path.resolve().as_uri()})"
    return {"type": kind, "key": shown.key, "description": shown.description, "data": data}
