"""`make serve` under load: a training, busy processes beside it, and somebody who clicks in Prefect's pages.

    python -m bench.serve_load [MINUTES [CLICKS [BUSY]]]

The toy LTX-2 trains as it is deployed. Headless Chromium clicks Retry, Submit, Cancel, schedule on and
schedule off in turn, evenly over the minutes (20 for 120 clicks, 4 busy processes), and each click's effect
is read back from the API. The number printed last is the clicks that failed, target 0.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from unittest.mock import patch

from prefect.client.orchestration import SyncPrefectClient

from bench.busy import busy
from bench.machine import describe_machine, write_table
from bench.ui_clicks import ROUND, SCHEDULED, SHORT_STAGE, Click, Clicker
from flows.child_process import ROOT
from flows.environment import logs_directory, prefect_home
from flows.guard.sign_in import make_link
from flows.server import find_server
from ltxcore.media.samples import make_samples
from tests.e2e.browser import chromium, find_chromium
from tests.e2e.serving import api, start_serving, until

STEPS: Final = 1_000_000
"""More than the toy can do in the time."""
EFFECT_LIMIT_S: Final = 60.0
RETRYABLE: Final = "Encountered retryable exception in request"
LOCKED: Final = "database is locked"


@contextlib.contextmanager
def served(workspace: Path, datasets: Path, recipe: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`make serve`, stopped at the end; its server writes each 503 into its log."""
    # Prefect keeps "database is locked" out of its log otherwise.
    with patch.dict(os.environ, {"PREFECT_SERVER_LOG_RETRYABLE_ERRORS": "true"}):
        supervisor, _ = start_serving(workspace, datasets, recipe)
    try:
        yield supervisor
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(120)


@contextlib.contextmanager
def clicking(workspace: Path, client: SyncPrefectClient, limit_s: float) -> Iterator[Clicker]:
    """A browser that has signed in to the servers of a workspace."""
    server = find_server(workspace)
    assert server is not None, f"no server runs for {workspace}"
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        clicker = Clicker(page, server.ui, client, limit_s)
        page.goto(make_link(prefect_home(workspace), server.ui))
        page.get_by_role("link", name="Deployments").first.wait_for()
        yield clicker


def trained_steps(workspace: Path) -> int:
    """Steps that the training has written down."""
    return sum(
        len(path.read_text().splitlines()) for path in workspace.glob("stages/train-lora/*/metrics.jsonl")
    )


def start_training(workspace: Path, client: SyncPrefectClient) -> Callable[[], bool]:
    """Start the pipeline and wait for the first steps; returns the question whether it still trains."""
    deployment = client.read_deployment_by_name(f"{SCHEDULED}/{SCHEDULED}")
    run = client.create_flow_run_from_deployment(deployment.id)

    def trains() -> bool:
        state = client.read_flow_run(run.id).state
        return state is not None and not state.is_final()

    until(lambda: trained_steps(workspace) > 0 or not trains(), 900)
    assert trains(), client.read_flow_run(run.id).state
    return trains


def refusals(workspace: Path) -> Counter[str]:
    """How often the server answered 503, and how often SQLite was locked, by the server's log."""
    log = (logs_directory(workspace) / "server.log").read_text()
    return Counter({"503": log.count(RETRYABLE), LOCKED: log.count(LOCKED)})


def ended_well(client: SyncPrefectClient, clicker: Clicker, limit_s: float) -> int:
    """Wait for the ends of the runs that were retried; returns how many of them are Completed."""
    runs = set(clicker.retried)
    until(lambda: all(client.read_flow_run(run).state.is_final() for run in runs), limit_s)
    return sum(client.read_flow_run(run).state.is_completed() for run in runs)


def pacer(clicks: int, seconds: float) -> Callable[[], None]:
    """What spreads so many clicks evenly over the time; a late one is made at once."""
    begin = time.monotonic()
    turn = 0

    def pause() -> None:
        nonlocal turn
        time.sleep(max(0.0, begin + seconds * turn / clicks - time.monotonic()))
        turn += 1

    return pause


def table(clicks: list[Click]) -> list[list[str]]:
    rows = []
    for action in ROUND:
        of_action = [click for click in clicks if click.action == action]
        seconds = sorted(click.seconds for click in of_action if click.failure is None)
        failed = sum(click.failure is not None for click in of_action)
        middle = f"{statistics.median(seconds):.1f}" if seconds else "-"
        slowest = f"{seconds[-1]:.1f}" if seconds else "-"
        rows.append([action, *map(str, (len(of_action), len(seconds), failed)), middle, slowest])
    failed = sum(click.failure is not None for click in clicks)
    rows.append(["all", *map(str, (len(clicks), len(clicks) - failed, failed)), "", ""])
    return rows


def lay_out(root: Path) -> tuple[Path, Path]:
    """The job of `make run`, without an end; returns dataset file and recipe."""
    make_samples(root / "clips", "glimmer")
    datasets, recipe = root / "datasets.yaml", root / "recipe.yaml"
    datasets.write_text((ROOT / "datasets.yaml").read_text().replace("datasets/glimmer", str(root / "clips")))
    text = (ROOT / "deploy/recipes/toy.yaml").read_text()
    assert "max_train_steps: 400\n" in text
    recipe.write_text(text.replace("max_train_steps: 400\n", f"max_train_steps: {STEPS}\n"))
    return datasets, recipe


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 120
    others = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    find_chromium()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-serve-")))
        workspace = root / "workspace"
        supervisor = stack.enter_context(served(workspace, *lay_out(root)))
        client = stack.enter_context(api(workspace))
        trains = start_training(workspace, client)
        stack.enter_context(busy(others))
        clicker = stack.enter_context(clicking(workspace, client, EFFECT_LIMIT_S))
        clicker.last_ended(SHORT_STAGE)
        steps, begin = trained_steps(workspace), time.monotonic()
        pause = pacer(count, 60 * minutes)
        for number in range(count // len(ROUND)):
            clicker.play_round(number, pause)
            for click in clicker.clicks[-len(ROUND) :]:
                print(f"{time.monotonic() - begin:7.1f} {click}", flush=True)
            assert supervisor.poll() is None, workspace.with_suffix(".log").read_text()
        took = time.monotonic() - begin
        load = os.getloadavg()[1]
        steps = trained_steps(workspace) - steps
        assert trains(), "the training has ended"
        completed = ended_well(client, clicker, 600)
        refused = refusals(workspace)
        title = (
            f"{len(clicker.clicks)} clicks in {took / 60:.1f} minutes beside a training ({steps} steps) and "
            f"{others} busy processes, load {load:.0f}; the server answered 503 {refused['503']} times "
            f"({LOCKED!r} {refused[LOCKED]} times in its log), {len(clicker.answers)} times to the pages; "
            f"of {len(set(clicker.retried))} runs retried {completed} ended Completed; {describe_machine()}"
        )
        header = ["click", "clicks", "effects seen", "failures", "median s", "longest s"]
        write_table("serve_load", title, header, table(clicker.clicks))
        failures = [click for click in clicker.clicks if click.failure is not None]
        for click in failures:
            print(f"{click.action}: {click.failure}")
        print(len(failures))


if __name__ == "__main__":
    main()
