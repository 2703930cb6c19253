"""The job's checks as a task of the parent."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from ltxcore.jobs.checks.job_checks import check_job
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.here import Here
from tasks.hub import hub_token


@task(name="check-job", cache_policy=NO_CACHE)
def check(ctx: Context) -> None:
    """Refuse before the first stage what a stage would refuse later.

    Raises:
        JobRefused: with all faults.
    """
    check_job(ctx, Here(hub_token=hub_token))
