"""A workspace with the tiny model and a small dataset, and the stages run on it without Prefect."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.stages import embed_text, encode_latents, probe_media, split_audio
from ltxcore.stages.context import Context
from ltxcore.stages.trainable import require_trainable
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.texts import TextStore
from ltxcore.store.waveforms import WaveformStore
from ltxcore.store.workspace import Workspace
from ltxcore.tracking.mlflow_run import MlflowRun
from tests.hub_server import FakeHub, fake_hub

TINY = Path(__file__).parents[2] / "deploy/recipes/tiny.yaml"
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


class Bench:
    """A dataset folder and a workspace, and what the stages make of them."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.root, self.recipe = root, recipe
        self.clips = root / "clips"

    @property
    def ctx(self) -> Context:
        """A fresh context, as a new process would have."""
        return Context(Workspace(self.root / "workspace"), self.recipe, self.root / "datasets.yaml")

    def probe(self) -> tuple[Snapshot, int]:
        ctx = self.ctx
        memo, files = probe_media.Memo(ctx), probe_media.find_files(ctx)
        unknown = memo.unknown(files)
        probed = memo.probe_batch(unknown, lambda: None)
        snapshot = probe_media.make_snapshot(ctx, memo, files)
        ctx.workspace.save_snapshot(snapshot)
        require_trainable(ctx, snapshot)
        return snapshot, probed

    def split(self) -> int:
        ctx, store = self.ctx, WaveformStore(self.ctx.store)
        waiting = split_audio.to_do(ctx, store)
        split_audio.split_batch(ctx, store, waiting, lambda: None)
        return len(waiting)

    def encode(self, on_clip: Callable[[], None] = lambda: None) -> dict[str, int]:
        ctx = self.ctx
        batches = encode_latents.plan_batches(ctx, LatentStore(ctx.store))
        if not batches:
            return {"video": 0, "audio": 0}
        encoder = encode_latents.Encoder(ctx, "cpu")
        for batch in batches:
            encoder.encode_batch(batch, on_clip)
        return encoder.encoded

    def embed(self) -> int:
        ctx = self.ctx
        waiting = embed_text.to_do(ctx, TextStore(ctx.store))
        if waiting:
            embed_text.Embedder(ctx, "cpu").embed_batch(waiting)
        return len(waiting)

    def prepare(self) -> None:
        """Everything that training needs."""
        self.probe()
        self.split()
        self.encode()
        self.embed()


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
    recipe = load_recipe(TINY)
    training = recipe.training.model_copy(update={"max_train_steps": 6, "checkpoint_step_interval": 2})
    return Bench(root, recipe.model_copy(update={"training": training}))


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
    told: dict[str, str] = {}
    monkeypatch.setattr(MlflowRun, "set_tags", lambda self, tags: told.update(tags))
    return told
