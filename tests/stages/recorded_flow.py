"""A run that leaves something of every kind in the history, for the tests of recorded runs."""

from __future__ import annotations

import logging

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from tests.stages.fake_flows import two_stages


@task(name="tell", cache_policy=NO_CACHE)
def tell() -> None:
    """Two artifacts, one of them changed later, and a line of a library's log."""
    create_markdown_artifact(markdown="# told", key="told", description="What was told")
    bar = create_progress_artifact(10.0, key="bar", description="at first")
    update_progress_artifact(bar, 90.0, description="later")  # type: ignore[arg-type]
    logging.getLogger("ltxcore.test").warning("a word of the library")


@flow(name="telling")
def telling() -> None:
    """Tell once."""
    tell()


def main(workspace: str, what: str, mode: str = "", retries: str = "0") -> None:
    """Run the flow that a test asks for."""
    if what == "telling":
        telling()
    else:
        two_stages(workspace, mode, int(retries))
