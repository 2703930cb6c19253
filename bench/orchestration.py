"""What the embedded pipeline costs beyond the stages' own work, part by part, in seconds of processor time.

    python -m bench.orchestration

`ltx2 run` trains the toy on three clips for three steps, in a new workspace, and then once more, with
nothing to do. Every process of the run is watched in /proc: its processor time, its place in the tree, and,
for a stage, how much of it was spent before the stage had opened (imports, Prefect's engine), between that
and its stamp (its work) and after it. What remains of the kernel's own sum is that of processes too short
to be seen. The number printed last is the orchestration of the first run; the limits are 15 s and 6 s.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.machine import describe_machine, write_table
from ltxcore.media.samples import make_samples
from ltxcore.pipeline.base.contract import STAGES
from ltxcore.pipeline.base.stamp import read_manifest
from ltxcore.store.workspace import Workspace

ROOT: Final = Path(__file__).parents[1]
CLIPS: Final = ("circle-up", "square-left", "triangle-down")
STEPS: Final = 3
LIMITS: Final = {"first run": 15.0, "nothing to do": 6.0}
SAMPLE_S: Final = 0.02
TICKS: Final = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER: Final = 36
FLOW: Final = "parent flow"
SERVER: Final = "stage server: imports"
ROLES: Final = {
    "flows.guard.prefect_server": "Prefect server",
    "flows.guard.recorder": "recorder",
    "flows.stage_server": SERVER,
    "flows.embedded": FLOW,
    "flows.cli": "command line",
}
WORK: Final = "work of the stages"


@dataclass
class Seen:
    """A process, as /proc showed it."""

    parent: int
    command: str
    trail: list[tuple[float, float]] = field(default_factory=list)
    """Time, and processor seconds until then, those of its ended children included."""
    own_s: float = 0.0
    """Processor seconds of itself alone."""

    def seconds_until(self, moment: float) -> float:
        """Its processor time up to a moment, its ended children's included."""
        before = [seconds for when, seconds in self.trail if when <= moment]
        return before[-1] if before else 0.0

    @property
    def seconds(self) -> float:
        return self.trail[-1][1]


class Watch:
    """Looks at every process below this one, until it is told to stop."""

    def __init__(self) -> None:
        self.processes: dict[int, Seen] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._look()

    def _look(self) -> None:
        now, parents = time.time(), {}
        lines = {}
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                try:
                    _, _, rest = (place / "stat").read_text().rpartition(")")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                values = rest.split()
                parents[int(place.name)] = int(values[1])
                lines[int(place.name)] = [int(value) / TICKS for value in values[11:15]]
        for pid, (user, system, children_user, children_system) in lines.items():
            if not _below(pid, os.getpid(), parents):
                continue
            seen = self.processes.get(pid)
            if seen is None:
                seen = self.processes[pid] = Seen(parents[pid], "")
            if len(seen.trail) < 20:
                # A process that was just started has its parent's command line still.
                seen.command = _command(pid) or seen.command
            seen.own_s = user + system
            seen.trail.append((now, user + system + children_user + children_system))


def _below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while (pid := parents.get(pid, 0)) not in (0, 1):
        if pid == ancestor:
            return True
    return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass(frozen=True)
class Worked:
    """When a stage was at work, by its stamp."""

    stage: str
    begun_s: float
    ended_s: float


def worked(workspace: Workspace, run: Path) -> dict[int, Worked]:
    """For each process that did a stage's work in a run, when it did."""
    found = {}
    for stage in STAGES:
        entry = read_manifest(run, stage)
        if entry is not None and not entry.up_to_date:
            ended_s = (workspace.root / entry.stamp).stat().st_mtime
            found[entry.process] = Worked(stage.name, ended_s - entry.seconds, ended_s)
    return found


def parts(watch: Watch, stamps: dict[int, Worked], total_s: float) -> dict[str, float]:
    """Processor seconds by part; they add up to the whole."""
    found: dict[str, float] = defaultdict(float)
    for pid, seen in watch.processes.items():
        stage = stamps.get(pid)
        if stage is not None:
            before_s, until_s = (seen.seconds_until(moment) for moment in (stage.begun_s, stage.ended_s))
            found[f"{stage.stage}: before its work"] += before_s
            found[WORK] += until_s - before_s
            found[f"{stage.stage}: after its work"] += seen.seconds - until_s
        elif not _has_ancestor(pid, stamps, watch.processes):
            found[_role(seen, watch.processes.get(seen.parent))] += seen.own_s
    found["processes too short to be seen"] = total_s - sum(found.values())
    return dict(found)


def _role(seen: Seen, parent: Seen | None) -> str:
    role = next((told for word, told in ROLES.items() if word in seen.command), "other processes")
    # The stage server is forked from the parent flow, and has its command line.
    return SERVER if role == FLOW and parent is not None and _role(parent, None) == FLOW else role


def _has_ancestor(pid: int, stamps: dict[int, Worked], processes: dict[int, Seen]) -> bool:
    while pid in processes:
        pid = processes[pid].parent
        if pid in stamps:
            return True
    return False


def lay_out(root: Path) -> list[str]:
    """Three clips, their dataset file and the recipe; the options of `ltx2 run` for them."""
    make_samples(root / "all", "glimmer")
    (root / "clips").mkdir()
    chosen = sorted(path for path in (root / "all").glob("*.mp4") if path.with_suffix(".txt").exists())[:3]
    for clip in chosen:
        for file in (clip, clip.with_suffix(".txt")):
            file.rename(root / "clips" / file.name)
    datasets = (ROOT / "datasets.yaml").read_text().replace("datasets/glimmer", str(root / "clips"))
    (root / "datasets.yaml").write_text(datasets)
    recipe = (ROOT / "deploy/recipes/toy.yaml").read_text()
    recipe = recipe.replace("max_train_steps: 400", f"max_train_steps: {STEPS}")
    recipe = recipe.replace("train_batch_size: 4", "train_batch_size: 1")
    recipe = recipe.replace("lr_warmup_steps: 10", "lr_warmup_steps: 1")
    (root / "recipe.yaml").write_text(recipe)
    files = {"workspace": "workspace", "datasets": "datasets.yaml", "recipe": "recipe.yaml"}
    return [word for name, file in files.items() for word in (f"--{name}", str(root / file))]


def measure(root: Path, options: list[str]) -> tuple[dict[str, float], float]:
    """One `ltx2 run`: its processor seconds by part, and how long it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with Watch() as watch:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "run", *options], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        wall_s = time.monotonic() - began
        _reap()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    workspace = Workspace(root / "workspace")
    assert workspace.newest_run is not None
    stages = worked(workspace, workspace.run(workspace.newest_run))
    return parts(watch, stages, total_s), wall_s


def _reap() -> None:
    """Wait for those whose parents did not: a stage server ends a moment after its parent."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def main() -> None:
    """Print the parts of both runs, and last the orchestration of the first."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="bench-orchestration-") as place:
        options = lay_out(Path(place))
        for name in LIMITS:
            figures[name] = measure(Path(place), options)
    rows = []
    for name, (found, wall_s) in figures.items():
        work = found.pop(WORK, 0.0)
        rows += [[name, part, f"{seconds:.2f}"] for part, seconds in found.items()]
        rows.append([name, f"**orchestration, limit {LIMITS[name]:g}**", f"**{sum(found.values()):.2f}**"])
        rows.append([name, f"{WORK} (not counted)", f"{work:.2f}"])
        rows.append([name, "wall time", f"{wall_s:.1f}"])
    title = f"Seconds of processor time; {len(CLIPS)} clips, {STEPS} steps of the toy; {describe_machine()}"
    write_table("orchestration", title, ["run", "part", "seconds"], rows)
    print(f"{sum(figures['first run'][0].values()):.2f}")


if __name__ == "__main__":
    main()
