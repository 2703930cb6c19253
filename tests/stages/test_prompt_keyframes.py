"""Pictures that a recipe gives to the renderings of its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError
from ltxcore.config.validation_settings import ValidationSettings
from ltxcore.jobs.checks.job_checks import refusals
from ltxcore.pipeline.base.contract import RENDER
from ltxcore.pipeline.base.here import Here
from ltxcore.stages.render_validation.memory import rendering_workload
from ltxcore.stages.render_validation.prompt_keyframes import PromptKeyframes, covering
from ltxcore.stages.render_validation.request import request as render_validation_request
from ltxcore.stages.render_validation.session import Session
from ltxcore.validation.first_frame import first_frame_latent
from ltxcore.validation.rendering_settings import settings_of_renderings
from tests.stages.conftest import Bench
from tests.stages.test_guidance_stages import small_pictures, train, with_section

PROMPTS = {"disc": "A red disc.", "box": "A blue box."}


def picture(path: Path, colour: str, size: tuple[int, int] = (96, 64)) -> str:
    shown = Image.new("RGB", size, colour)
    shown.paste("white", (size[0] // 2, 0, *size))
    shown.save(path)
    return str(path)


def asking(bench: Bench, keyframes: dict[str, dict[int, str]]) -> Bench:
    return with_section(
        small_pictures(bench), "validation", validation_prompts=PROMPTS, validation_keyframes=keyframes
    )


def base_frames(bench: Bench, tmp_path: Path) -> dict[str, np.ndarray[Any, Any]]:
    session = Session(bench.ctx, tmp_path / "gallery", "cpu")
    return {one.base.name: one.base.frames for one in session.render(lambda _: None)}


def test_a_picture_changes_its_own_prompts_rendering_alone(bench: Bench, tmp_path: Path) -> None:
    plain = asking(bench, {})
    plain.prepare()
    train(plain)
    assert "validation_keyframes" not in render_validation_request(plain.ctx)["validation"]
    without = base_frames(plain, tmp_path)
    files = {0: picture(tmp_path / "first.png", "red"), -1: picture(tmp_path / "last.png", "blue")}
    given = asking(bench, {"disc": files})
    request = render_validation_request(given.ctx)
    first = base_frames(given, tmp_path)
    assert np.array_equal(first["box"], without["box"]), "the other prompt has none"
    assert np.abs(first["disc"].astype(int) - without["disc"]).max() > 10
    for at in (0, -1):
        picture(Path(files[at]), "green")
        assert render_validation_request(given.ctx) != request, "the content counts"
        changed = base_frames(given, tmp_path)
        difference = np.abs(changed["disc"].astype(int) - first["disc"]).max()
        assert difference > 2, at
        first = changed
    width, height = (plan := settings_of_renderings(given.recipe.validation)[0]).width, plan.height
    assert rendering_workload(given.ctx).beside_tokens == width * height // 32**2


def test_pictures_are_cut_recompressed_and_put_at_their_frames(bench: Bench, tmp_path: Path) -> None:
    from ltxcore.models.files.loading import load_video_vae

    bench.prepare()
    files = {0: picture(tmp_path / "a.png", "red"), 4: picture(tmp_path / "b.png", "blue", (64, 128))}
    ctx = asking(bench, {"disc": files}).ctx
    (plan,) = settings_of_renderings(ctx.recipe.validation)
    vae = load_video_vae(ctx.source, torch.float32, "cpu")
    keyframes = PromptKeyframes(ctx)
    assert keyframes.of("box", plan, vae) is None
    held = keyframes.of("disc", plan, vae)
    assert held is not None
    assert held.video is not None
    assert held.video.given.all()
    assert [reference.frame for reference in held.references] == [4]
    middle = np.zeros((64, 64, 3), np.uint8)
    middle[:, :32], middle[:, 32:] = (0, 0, 255), 255
    with Image.open(files[4]) as opened:
        assert np.array_equal(np.asarray(opened.crop((0, 32, 64, 96))), middle)
    expected = first_frame_latent(vae, middle, ctx.source.version.image_crf)
    assert torch.equal(held.references[0].latents[0], expected)
    cut = covering((96, 64), (64, 64))
    assert (cut.resize, cut.crop_xy) == ((96, 64), (16, 0))


@pytest.mark.parametrize("file", ["missing.png", "text.png"])
def test_what_is_no_picture_is_refused_before_anything_runs(bench: Bench, tmp_path: Path, file: str) -> None:
    (tmp_path / "text.png").write_text("this is no picture")
    ctx = asking(bench, {"disc": {0: str(tmp_path / file)}}).ctx
    (refusal,) = refusals(ctx, Here("cpu"), (RENDER,))
    assert f"validation.validation_keyframes names {tmp_path / file}" in refusal.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"validation_keyframes": {"dics": {0: "a.png"}}},
            "no prompt of validation_prompts; did you mean `disc`",
        ),
        ({"validation_keyframes": {"disc": {9: "a.png"}}}, "has frame 9, and 9 frames are rendered"),
        ({"validation_keyframes": {"disc": {-1: "a", 8: "b"}}}, "two pictures for one frame"),
        (
            {"validation_keyframes": {"disc": {0: "a"}}, "validation_modality": "audio"},
            "audio makes none",
        ),
        (
            {"validation_keyframes": {"disc": {0: "a"}}, "validation_using_datasets": True},
            "leave one of them out",
        ),
    ],
)
def test_pictures_without_a_place_are_refused(settings: dict[str, Any], message: str) -> None:
    data = {"validation_prompts": PROMPTS, "validation_num_video_frames": 9, **settings}
    with pytest.raises(ConfigError, match=message):
        parse(ValidationSettings, data, "recipe")
