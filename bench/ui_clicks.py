"""Clicks in Prefect's pages, each one's effect read back from the API: what people do while a training runs.

A click that cannot be made, or whose effect the API does not show within the limit, has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun

if TYPE_CHECKING:
    from playwright.sync_api import Page

RETRY: Final = "Retry"
SUBMIT: Final = "Submit"
CANCEL: Final = "Cancel"
SCHEDULE_ON: Final = "Schedule on"
SCHEDULE_OFF: Final = "Schedule off"
ROUND: Final = (RETRY, SUBMIT, CANCEL, SCHEDULE_ON, SCHEDULE_OFF)

SHORT_STAGE: Final = "probe-media"
"""Runs at once, in the pool `cpu`: it is submitted, cancelled while it starts, and retried."""
WAITING_STAGE: Final = "train-lora"
"""Waits for the place in the pool `gpu` that the training holds: it is submitted and cancelled."""
SCHEDULED: Final = "train-ltx2"
POLL_S: Final = 0.5


class NoEffect(Exception):
    """The API does not show what a click was for."""


@dataclass(frozen=True)
class Click:
    """One click: what for, how long until the API showed its effect, and what went wrong instead."""

    action: str
    seconds: float
    failure: str | None


@dataclass
class Clicker:
    """Somebody at Prefect's pages.

    Args:
        page: a page of a browser that has signed in.
        ui: address of the pages, without a slash at the end.
        client: of the same server.
        limit_s: how long to wait for a button, and then for the effect.
    """

    page: Page
    ui: str
    client: SyncPrefectClient
    limit_s: float
    clicks: list[Click] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    """What the server answered to the pages with a status from 500 on."""
    retried: list[UUID] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(1000 * self.limit_s)
        self.page.on("response", self._look_at)

    def _look_at(self, response: Any) -> None:
        if response.status >= 500:
            self.answers.append(f"{response.status} {response.request.method} {response.url}")

    def play_round(self, number: int, pause: Callable[[], None]) -> None:
        """One click of each kind, `pause` before each. Even rounds submit what runs, odd ones what waits."""
        stage = WAITING_STAGE if number % 2 else SHORT_STAGE
        pause()
        with self._counted(RETRY):
            self.retry(self.last_ended(SHORT_STAGE))
        pause()
        new = None
        with self._counted(SUBMIT):
            new = self.submit(stage, custom=number % 4 >= 2)
        pause()
        with self._counted(CANCEL):
            self.cancel_one(new)
        for action in (SCHEDULE_ON, SCHEDULE_OFF):
            pause()
            with self._counted(action):
                self.switch(SCHEDULED, action == SCHEDULE_ON)

    @contextmanager
    def _counted(self, action: str) -> Iterator[None]:
        from playwright.sync_api import Error

        begin = time.monotonic()
        seen = len(self.answers)
        failure = None
        try:
            yield
        except (NoEffect, Error, httpx.HTTPError) as error:
            first_line = (str(error) or repr(error)).splitlines()[0]
            failure = "; ".join([first_line, *self.answers[seen:]])
        self.clicks.append(Click(action, time.monotonic() - begin, failure))

    # --- the actions ---

    def submit(self, name: str, custom: bool) -> FlowRun:
        """Start a run of a deployment, by `Quick run` or by the form of `Custom run`."""
        deployment = self.client.read_deployment_by_name(f"{name}/{name}").id
        before = {run.id for run in self._runs(deployment)}
        self.page.goto(f"{self.ui}/v2/deployments/deployment/{deployment}")
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run" if custom else "Quick run").click()
        if custom:
            self.page.get_by_role("button", name="Submit").click()
        self._await(lambda: len(self._new(deployment, before)) > 0, f"no run of {name} was made")
        made = self._new(deployment, before)
        if len(made) > 1:
            raise NoEffect(f"one click made {len(made)} runs of {name}")
        return made[0]

    def switch(self, name: str, on: bool) -> None:
        """Switch the schedule of a deployment."""
        deployment = self.client.read_deployment_by_name(f"{name}/{name}")
        self.page.goto(f"{self.ui}/v2/deployments/deployment/{deployment.id}")
        switch = self.page.locator(f'[role=switch][aria-checked="{str(not on).lower()}"]')
        switch.click()

        def switched() -> bool:
            (schedule,) = self.client.read_deployment(deployment.id).schedules
            return schedule.active == on

        self._await(switched, f"the schedule of {name} is not {'on' if on else 'off'}")

    def retry(self, run: FlowRun) -> None:
        """Retry a run that has ended."""
        before = self._state(run.id)
        self._choose(run.id, "Retry", "Retry")
        self._await(lambda: self._state(run.id).id != before.id, f"the run {run.name} is still {before.name}")
        self.retried.append(run.id)

    def cancel(self, run: FlowRun) -> None:
        """Cancel a run that has not ended."""
        self._choose(run.id, "Cancel", "Cancel Flow Run")

        def cancelled() -> bool:
            state = self._state(run.id)
            return bool(state.is_cancelling() or state.is_cancelled())

        self._await(cancelled, f"the run {run.name} is not cancelled")

    def cancel_one(self, run: FlowRun | None) -> None:
        """Cancel this run; where it is not there, or has ended before the click, one that waits."""
        if run is None or self._has_ended(run.id):
            self.cancel(self._start_waiting())
            return
        try:
            self.cancel(run)
        except NoEffect:
            # It ended between the look and the click.
            if not self._has_ended(run.id):
                raise
            self.cancel(self._start_waiting())

    # --- the pages and the API ---

    def _choose(self, run: UUID, item: str, confirm: str) -> None:
        """Take an item of a run's menu, and confirm it.

        Raises:
            NoEffect: the page is there, and its menu has no such item.
        """
        self.page.goto(f"{self.ui}/v2/runs/flow-run/{run}")
        self.page.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name="Copy ID").wait_for()
        chosen = self.page.get_by_role("menuitem", name=item, exact=True)
        if not chosen.count():
            raise NoEffect(f"the menu of the run, which is {self._state(run).name}, has no {item}")
        chosen.click()
        self.page.get_by_role("alertdialog").get_by_role("button", name=confirm, exact=True).click()

    def last_ended(self, name: str) -> FlowRun:
        """The newest run of a deployment that has ended; waits for one."""
        deployment = self.client.read_deployment_by_name(f"{name}/{name}").id

        def ended() -> list[FlowRun]:
            return [run for run in self._runs(deployment) if run.state is not None and run.state.is_final()]

        self._await(lambda: bool(ended()), f"no run of {name} has ended")
        return max(ended(), key=lambda run: str(run.created))

    def _start_waiting(self) -> FlowRun:
        deployment = self.client.read_deployment_by_name(f"{WAITING_STAGE}/{WAITING_STAGE}")
        return self.client.create_flow_run_from_deployment(deployment.id)

    def _runs(self, deployment: UUID) -> list[FlowRun]:
        wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment)]}})
        return self.client.read_flow_runs(flow_run_filter=wanted)

    def _new(self, deployment: UUID, before: set[UUID]) -> list[FlowRun]:
        return [run for run in self._runs(deployment) if run.id not in before]

    def _state(self, run: UUID) -> Any:
        return self.client.read_flow_run(run).state

    def _has_ended(self, run: UUID) -> bool:
        return bool(self._state(run).is_final())

    def _await(self, condition: Callable[[], bool], message: str) -> None:
        begin = time.monotonic()
        while not condition():
            if time.monotonic() - begin > self.limit_s:
                raise NoEffect(f"{message} after {self.limit_s:.0f} s")
            time.sleep(POLL_S)
