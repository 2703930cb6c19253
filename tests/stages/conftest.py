"""A workspace with the tiny model and a small dataset, and the stages run on it without Prefect."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.execution.runner import do_units
from ltxcore.execution.stage_code import code_of
from ltxcore.media.errors import MediaError
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, PROBE, TEXT, Stage
from ltxcore.pipeline.base.progress import Progress
from ltxcore.pipeline.base.work import Assignment, Place, Result, Work
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.workspace import Workspace
from ltxcore.tracking.mlflow_run import MlflowRun
from tests.hub_server import FakeHub, fake_hub
from tests.shared import empty_tracking_database, made_once

TINY = Path(__file__).parents[2] / "deploy/recipes/tiny.yaml"
MADE = "made-once"
"""In a bench's folder, a file that names the folder of what the session's tests share."""
CLIPS = ("blue-box-up.mp4", "red-disc-right.mp4", "orange-disc-silent.mp4", "twin.mp4", "twin.mov")

DATASETS = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 17}
- id: text
  dataset_type: text_embeds
"""


class Counted(Progress):
    """Calls back for everything that is done."""

    def __init__(self, stage: Stage, run: Path, on_advance: Callable[[], None]) -> None:
        super().__init__(stage.name, run)
        self._on_advance = on_advance

    def advance(self, by: int = 1, message: str | None = None) -> None:
        super().advance(by, message)
        self._on_advance()


def work_of(stage: Stage, ctx: Context, on_advance: Callable[[], None] = lambda: None) -> Work[Any]:
    """The work of a stage, outside of a run."""
    beside = ctx.workspace.root / "beside"
    return code_of(stage).load_work()(
        Assignment(ctx, {}, beside / stage.name, Counted(stage, beside, on_advance))
    )


def do_all(work: Work[Any]) -> None:
    """Do all that a work has to do, each unit once, on the CPU and without a stamp."""
    if work.total():
        work.load(Place(work.ctx, "cpu", None))
        do_units(work, tries=1)


def outcome_of(stage: Stage, ctx: Context, on_advance: Callable[[], None] = lambda: None) -> Result:
    """What comes of all that a stage has to do."""
    work = work_of(stage, ctx, on_advance)
    do_all(work)
    return work.outcome()


def snapshot_of(ctx: Context) -> Snapshot:
    """The snapshot that probe-media makes, also of a dataset that it then refuses."""
    outcome_of(PROBE, ctx)
    return ctx.snapshot


class Bench:
    """A dataset folder and a workspace, and what the stages make of them."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.root, self.recipe = root, recipe
        self.clips = root / "clips"

    @property
    def ctx(self) -> Context:
        """A fresh context, as a new process would have."""
        return context_here(Workspace(self.root / "workspace"), self.recipe, self.root / "datasets.yaml")

    def probe(self) -> tuple[Snapshot, int]:
        result = outcome_of(PROBE, self.ctx)
        if result.refusal is not None:
            raise result.refusal
        return self.ctx.snapshot, result.outcome.counts["done"]

    def split(self) -> int:
        return outcome_of(AUDIO, self.ctx).outcome.counts["done"]

    def encode(self, on_clip: Callable[[], None] = lambda: None) -> dict[str, int]:
        counts = outcome_of(LATENTS, self.ctx, on_clip).outcome.counts
        return {kind: counts[f"{kind}_encoded"] for kind in ("video", "audio")} | (
            {"mask": counts["masks"]} if counts["masks"] else {}
        )

    def embed(self) -> int:
        return outcome_of(TEXT, self.ctx).outcome.counts["done"]

    def look(self, stores: Sequence[str] = ("media",)) -> None:
        """Probe, with copies of what these stores hold for another test of this session.

        Stores go by content: a copy is what would be made here, and what is not there is made.
        """
        made, workspace = self.root / MADE, self.ctx.workspace
        if made.exists() and not workspace.store_file.exists():
            _take_stores(_prepared(Path(made.read_text())), workspace.root, stores)
        self.probe()

    def prepare(self) -> None:
        """Everything that training needs; what was made for another test of this session is copied."""
        self.look(("media", "audio", "latents", "text"))
        self.split()
        self.encode()
        self.embed()


def _prepared(shared: Path) -> Path:
    """The workspace of a bench that is prepared as the shipped recipe asks."""

    def make(root: Path) -> None:
        bench = make_bench(root, shared / "sample-clips", shared / "models")
        (root / MADE).unlink()
        bench.prepare()
        empty_tracking_database(root / "workspace")

    return made_once(shared, "prepared-bench", make) / "workspace"


def _take_stores(made: Path, workspace: Path, stores: Sequence[str]) -> None:
    """Copy what the workspace does not have yet of another's stores and of its empty MLflow database."""
    for name in (*(f"store/{store}" for store in stores), "mlflow"):
        if not (workspace / name).exists():
            shutil.copytree(made / name, workspace / name)


@pytest.fixture
def bench(tmp_path: Path, sample_clips: Path, tiny_models: Path) -> Bench:
    """Five clips of the samples with their captions, one of them silent, and nothing made of them yet."""
    return make_bench(tmp_path, sample_clips, tiny_models)


def make_bench(root: Path, sample_clips: Path, tiny_models: Path) -> Bench:
    """The bench in a directory."""
    (root / "datasets.yaml").write_text(DATASETS)
    (root / "clips").mkdir()
    for name in CLIPS:
        shutil.copy2(sample_clips / name, root / "clips" / name)
        for caption in sample_clips.glob(f"{name.split('.')[0]}*.txt"):
            shutil.copy2(caption, root / "clips" / caption.name)
    shutil.copytree(tiny_models, root / "workspace" / "models")
    (root / MADE).write_text(str(tiny_models.parent))
    recipe = load_recipe(TINY)
    training = recipe.training.model_copy(update={"max_train_steps": 6, "checkpoint_step_interval": 2})
    return Bench(root, recipe.model_copy(update={"training": training}))


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Names a clip of which a healthy decoder says that its pictures are damaged."""
    from ltxcore.media import decode

    whole = decode.decode_frames

    def condemn(name: str) -> None:
        def decode_frames(path: Path, *rest: object, **more: object) -> object:
            if path.name == name:
                raise MediaError("is damaged: 3 of the 17 frames needed are readable")
            return whole(path, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(decode, "decode_frames", decode_frames)

    return condemn


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """The hub of this process, and its token in the environment."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fake_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What MLflow is told, without a tracking server."""
    sent: dict[str, str] = {}
    monkeypatch.setattr(MlflowRun, "set_tags", lambda self, tags: sent.update(tags))
    return sent
