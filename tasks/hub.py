"""Publishing on the Hugging Face hub: checked before the first stage, and done at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from ltxcore.jobs.publish.judged_loras import is_champion
from ltxcore.jobs.publish.publication import lora_directory, publish
from ltxcore.pipeline.base.context import Context
from ltxcore.publishing.errors import HubRefused
from ltxcore.publishing.hub import Hub, Pushed
from ltxcore.publishing.token import SECRET_BLOCK, local_token, require_token
from tasks import artifacts


class UploadFailed(RuntimeError):
    """The LoRA is trained but not on the hub; the text says where it is and what to do."""


def hub_token() -> str | None:
    """The token of this machine, or else that of the Secret block `hf-token`.

    It is asked for where it is used: a parameter or a result would be written down.
    """
    found = local_token()
    if found:
        return found
    try:
        block = Secret.load(SECRET_BLOCK)
    except ValueError:  # Prefect's word that there is no such block.
        return None
    return str(block.get())  # type: ignore[union-attr]


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to try again after a failure of the hub."""
    return not isinstance(state.result(raise_on_failure=False), HubRefused)


@task(
    name="check-hub",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 20],
    retry_condition_fn=may_pass,
)
def check_hub(ctx: Context) -> str:
    """Refuse, before anything is spent, what could not be uploaded at the end; return the repository."""
    repo = Hub(ctx.recipe.hub, require_token(hub_token())).check()
    get_run_logger().info("The LoRA will go to %s", repo)
    return repo


@task(
    name="push-to-hub",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[10, 60, 180],
    retry_condition_fn=may_pass,
)
def push(ctx: Context, run: Path) -> Pushed:
    """Upload what the hub lacks of a finished run, in one commit."""
    pushed = publish(ctx, run, ctx.recipe.hub, require_token(hub_token()))
    sent = f"{pushed.files} files sent" if pushed.files else "nothing new"
    get_run_logger().info("%s: %s, commit %s", pushed.repo, sent, pushed.commit)
    artifacts.web_link("hub", pushed.url, pushed.repo, f"The LoRA on the hub, commit {pushed.commit}")
    return pushed


def may_be_published(ctx: Context, run: Path) -> bool:
    """Whether a run's LoRA goes to the hub: where the recipe has a gate, the champion alone does."""
    if ctx.recipe.promotion is None or is_champion(ctx, run):
        return True
    get_run_logger().info(
        "Nothing is uploaded: the LoRA of this run is not the champion of %s", ctx.recipe.promotion.model
    )
    return False


def push_to_hub(ctx: Context, run: Path) -> None:
    """Upload a finished run's LoRA.

    Raises:
        UploadFailed: after the last try; the run's work is done and stays done.
    """
    state = push(ctx, run, return_state=True)
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        raise UploadFailed(
            f"The LoRA is trained but not on the hub: {error}\nIt lies in {lora_directory(ctx, run)}. "
            "Running again does nothing but the upload, as every stage is up to date"
        ) from (error if isinstance(error, BaseException) else None)
