"""A dataset that changes after its latents are made: embed-text to the report, each from one prepared bench.

Only embed-frames, the renderings that are given a clip and the report read files of a dataset. The other
stages are run without its directory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.recipe import Recipe
from ltxcore.jobs.report.dataset_report import gather
from ltxcore.jobs.report.pictures import ReportPictures
from ltxcore.models.files.loading import load_video_vae
from ltxcore.models.teacher import prepare_teacher
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.base.contract import FRAMES
from ltxcore.stages.render_validation.given_clips import GivenClips
from ltxcore.store.latents import LatentStore
from ltxcore.store.texts import TextStore
from tests.stages.conftest import Bench, do_all, make_bench, work_of
from tests.stages.dataset_changes import CHANGES, CLIP, OTHER, Saved, unmount, what_is_named
from tests.stages.test_training_stage import train

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SHOWN = OTHER
"""The first clip, which renderings are given."""
Change = Callable[..., None]
every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """Everything that training needs, and nothing that reads the dataset after it."""
    made = make_bench(tmp_path_factory.mktemp("prepared"), sample_clips, tiny_models)
    aligned = with_frames(made)
    prepare_teacher(aligned.recipe.crepa, made.ctx.workspace.models)
    made.prepare()
    embed(aligned)
    return made


@pytest.fixture
def prepared(template: Bench, tmp_path: Path) -> Bench:
    """A copy of the template that knows its clips, which are beside it."""
    shutil.copytree(template.root, tmp_path / "bench")
    bench = Bench(tmp_path / "bench", template.recipe)
    bench.look()
    return bench


@pytest.fixture
def saved(prepared: Bench) -> Saved:
    """Its dataset as it is at first."""
    return Saved(prepared)


def with_frames(bench: Bench) -> Bench:
    crepa = CrepaSettings.model_validate(
        {
            "crepa_enabled": True,
            "crepa_encoder": "tiny",
            "crepa_encoder_image_size": 56,
            "crepa_block_index": 1,
        }
    )
    return Bench(bench.root, bench.recipe.model_copy(update={"crepa": crepa}))


def embed(bench: Bench) -> None:
    """embed-frames without Prefect."""
    do_all(work_of(FRAMES, bench.ctx))


def features(bench: Bench) -> dict[str, bytes]:
    store = LatentStore(bench.ctx.store)
    keys = [key for key, record in store.index.items() if record.inputs["kind"] == "teacher"]
    return {key: store.read(key).tobytes() for key in keys}


def forget_features(bench: Bench) -> None:
    index = LatentStore(bench.ctx.store).index
    index.commit(dict.fromkeys(features(bench)))


@every_change
def test_frames_are_those_that_were_probed_or_none(
    prepared: Bench, template: Bench, saved: Saved, change: Change
) -> None:
    bench = with_frames(prepared)
    forget_features(bench)
    change(bench)
    with pytest.raises(ClipsUndecided, match=what_is_named(change, bench)):
        embed(bench)
    made = features(bench)
    assert made.items() < features(template).items()
    assert change is unmount or len(made) == len(features(template)) - 1, "the others are committed"
    saved.restore()
    bench.look()
    embed(bench)
    assert features(bench) == features(template)


def test_frames_of_a_clip_that_is_restored_after_the_probe_are_not_taken_for_its_own(
    prepared: Bench, template: Bench, saved: Saved
) -> None:
    bench = with_frames(prepared)
    forget_features(bench)
    saved.make_another()
    bench.look()
    saved.restore()
    with pytest.raises(ClipsUndecided, match=f"{CLIP}: holds another content"):
        embed(bench)
    assert features(bench).items() < features(template).items()
    bench.look()
    embed(bench)
    assert features(bench) == features(template)


def given_a_clip(bench: Bench) -> Bench:
    """Renderings that begin with the first frame of each clip, as small as can be."""
    validation = {
        "validation_using_datasets": True,
        "validation_modality": "video",
        "validation_guidance": 1,
        "validation_num_inference_steps": 2,
    }
    return Bench(bench.root, Recipe.model_validate({**bench.recipe.model_dump(), "validation": validation}))


def held(bench: Bench, vae: Any) -> torch.Tensor:
    given = GivenClips(bench.ctx).of(SHOWN.removesuffix(".mp4"), vae)
    assert given is not None
    assert given.video is not None
    return given.video.tokens


@every_change
def test_a_rendering_is_given_the_clip_that_was_probed_or_none(
    prepared: Bench, saved: Saved, change: Change
) -> None:
    bench = given_a_clip(prepared)
    vae = load_video_vae(bench.ctx.source, torch.float32, "cpu")
    undisturbed = held(bench, vae)
    change(bench, SHOWN)
    with pytest.raises(ClipsUndecided, match=what_is_named(change, bench, SHOWN)):
        held(bench, vae)
    saved.restore()
    bench.look()
    assert torch.equal(held(bench, vae), undisturbed)


def test_a_rendering_is_not_given_a_clip_that_was_restored_after_the_probe(
    prepared: Bench, saved: Saved
) -> None:
    bench = given_a_clip(prepared)
    vae = load_video_vae(bench.ctx.source, torch.float32, "cpu")
    undisturbed = held(bench, vae)
    saved.make_another(SHOWN)
    bench.look()
    bench.split()
    bench.encode()
    saved.restore()
    with pytest.raises(ClipsUndecided, match=f"{SHOWN}: holds another content"):
        held(bench, vae)
    bench.look()
    assert torch.equal(held(bench, vae), undisturbed)


def adapter_in(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "lora/pytorch_lora_weights.safetensors")


def test_training_reads_no_file_of_the_dataset(prepared: Bench, template: Bench, tmp_path: Path) -> None:
    """The same training, with the dataset and without its directory."""
    shutil.copytree(prepared.root, tmp_path / "undisturbed")
    calm = given_a_clip(Bench(tmp_path / "undisturbed", template.recipe))
    calm.probe()
    bench = given_a_clip(prepared)
    unmount(bench)
    trained = train(bench)
    assert trained.name == train(calm).name
    found, wanted = adapter_in(trained), adapter_in(calm.ctx.workspace.stages / "train-lora" / trained.name)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_captions_are_embedded_without_the_dataset(prepared: Bench, template: Bench) -> None:
    """They are those of the snapshot, whatever has become of their files."""

    def captions(bench: Bench) -> dict[str, bytes]:
        store = TextStore(bench.ctx.store)
        return {key: store.read(key).payload for key, _ in store.index.items()}

    wanted = captions(template)
    TextStore(prepared.ctx.store).index.commit(dict.fromkeys(wanted))
    unmount(prepared)
    assert prepared.embed() == len(wanted) > 0
    assert captions(prepared) == wanted


@every_change
def test_a_report_shows_the_clip_that_was_probed_or_none(
    prepared: Bench, saved: Saved, change: Change
) -> None:
    snapshot = prepared.ctx.snapshot
    content = next(sample.media_id for sample in snapshot.samples if sample.path == CLIP)
    change(prepared)
    shown = gather(prepared.ctx).thumbnails
    assert shown[content] == b""
    assert change is unmount or all(shown[other] for other in shown.keys() - {content})
    saved.restore()
    prepared.probe()
    after = gather(prepared.ctx).thumbnails
    shutil.rmtree(prepared.ctx.workspace.root / "reports")
    assert after == ReportPictures(prepared.ctx).thumbnails(snapshot)
    assert after[content]
    unmount(prepared)
    assert gather(prepared.ctx).thumbnails == after, "what is kept needs no file"


def test_a_report_does_not_show_a_restored_clip_as_what_was_probed(prepared: Bench, saved: Saved) -> None:
    saved.make_another()
    snapshot, _ = prepared.probe()
    content = next(sample.media_id for sample in snapshot.samples if sample.path == CLIP)
    saved.restore()
    assert ReportPictures(prepared.ctx).thumbnails(snapshot)[content] == b""
