"""Names and tags of runs in Prefect's lists."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from prefect import get_client, runtime

from ltxcore.jobs.whole_run.run_name import dataset_ids, run_name, run_tags
from ltxcore.pipeline.base.context import Context


def name_at_start() -> str:
    """The name of a run of the pipeline whose files are not read yet."""
    return run_name(_recipe_file(), (), _began())


def name_run(ctx: Context) -> None:
    """Name this run by its recipe, datasets and date, and tag it, once its files are read."""
    run = UUID(str(runtime.flow_run.id))
    tags = sorted({*runtime.flow_run.tags, *run_tags(ctx)})
    with get_client(sync_client=True) as client:
        client.update_flow_run(run, name=run_name(_recipe_file(), dataset_ids(ctx), _began()), tags=tags)


def stage_run_name() -> str:
    """The name of a stage's run: the stage, and the step where it is about one."""
    stage, parameters = str(runtime.flow_run.flow_name), runtime.flow_run.parameters
    if step := parameters.get("step"):
        return f"{stage} of step {step}"
    if (step := parameters.get("pause_at", 0)) > 0:
        return f"{stage} to step {step}"
    return stage


def _recipe_file() -> str:
    return str(runtime.flow_run.parameters.get("recipe_file", ""))


def _began() -> datetime:
    """When this run was to begin, also where it is tried again, in this machine's time zone."""
    scheduled: datetime | None = runtime.flow_run.scheduled_start_time
    return datetime.now().astimezone() if scheduled is None else scheduled.astimezone()
