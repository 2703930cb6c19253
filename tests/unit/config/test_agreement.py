"""A recipe's conditioning against the datasets: what they cannot give is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ltxcore.config.agreement import check_agreement
from ltxcore.config.base import parse
from ltxcore.config.datasets import Datasets, load_datasets
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe

TEXT = {"id": "text", "dataset_type": "text_embeds"}
REFERENCE = {"type": "reference"}


def video(**more: Any) -> dict[str, Any]:
    return {
        "id": "clips", "dataset_type": "video", "instance_data_dir": "data", "video": {"num_frames": 25},
        **more,
    }  # fmt: skip


def conditioning(kind: str, name: str = "others", **more: Any) -> dict[str, Any]:
    return {
        "id": name, "dataset_type": "conditioning", "conditioning_type": kind, "instance_data_dir": "data",
        **more,
    }  # fmt: skip


def datasets(folder: Path, *sets: dict[str, Any]) -> Datasets:
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "datasets.yaml"
    path.write_text(yaml.safe_dump([*sets, TEXT]))
    return load_datasets(path)


def check(folder: Path, conditioning: dict[str, Any], *sets: dict[str, Any]) -> None:
    check_agreement(parse(Recipe, {"conditioning": conditioning}, "recipe"), datasets(folder, *sets))


SILENT = video(audio={"auto_split": False})
SOUND = {"id": "sound", "dataset_type": "audio", "instance_data_dir": "data", "audio": {"audio_only": True}}
PICTURES = {"id": "stills", "dataset_type": "image", "instance_data_dir": "data"}


def conditions(*given: dict[str, Any], modality: str = "video") -> dict[str, Any]:
    return {modality: {"conditions": list(given)}}


@pytest.mark.parametrize(
    ("conditioning", "sets"),
    [
        ({}, [video()]),
        ({}, [SOUND]),
        ({"audio": {"mode": "frozen"}}, [video()]),
        ({"audio": {"mode": "frozen"}}, [video(), PICTURES]),
        ({"video": {"mode": "frozen"}}, [video()]),
        (conditions({"type": "prefix", "frames": [1, 17]}), [video()]),
        (conditions({"type": "prefix", "frames": 9}, {"type": "suffix", "frames": 8}), [video()]),
        (conditions({"type": "first_frame"}), [video(), PICTURES]),
        (conditions({"type": "keyframes", "at": [0, 24, -25, -1]}), [video(), PICTURES]),
        (conditions(REFERENCE), [video(conditioning_data="others"), conditioning("reference")]),
        (
            conditions(REFERENCE),
            [
                video(conditioning_data=["others", "half"]),
                conditioning("reference"),
                conditioning("reference", "half", reference_downscale_factor=2),
            ],
        ),
        (conditions({"type": "mask"}), [video(conditioning_data=["others"]), conditioning("mask")]),
        (
            conditions(REFERENCE, modality="audio"),
            [video(conditioning_data="others"), conditioning("reference_audio", reference_seconds=3)],
        ),
        (
            conditions(REFERENCE, modality="audio"),
            [
                video(conditioning_data="others", audio={"audio_only": True}),
                conditioning("reference_audio"),
            ],
        ),
        (
            conditions(REFERENCE, modality="audio"),
            [{**SOUND, "conditioning_data": "others"}, conditioning("reference_audio")],
        ),
        (
            conditions({"type": "prefix", "frames": 200}),
            [video(video={"num_frames": 25, "bucket_strategy": "resolution_frames"})],
        ),
    ],
)
def test_what_the_data_can_give_is_accepted(
    tmp_path: Path, conditioning: dict[str, Any], sets: list[dict[str, Any]]
) -> None:
    check(tmp_path, conditioning, *sets)


@pytest.mark.parametrize(
    ("conditioning", "sets", "named"),
    [
        ({"audio": {"mode": "frozen"}}, [SILENT], "conditioning.audio.mode: is frozen, but no dataset has"),
        ({"audio": {"mode": "frozen"}}, [SOUND], "conditioning.audio.mode: is frozen, but of `sound` only"),
        ({"video": {"mode": "frozen"}}, [SILENT], "conditioning.video.mode: is frozen, but `clips` has no"),
        ({"video": {"mode": "frozen"}}, [video(), PICTURES], "`stills` has no sound"),
        ({"video": {"mode": "frozen"}}, [SOUND], "`sound` has no pictures"),
        (
            conditions({"type": "prefix", "frames": 9}, modality="audio"),
            [SILENT],
            "conditioning.audio.conditions: are given, but no dataset has sound",
        ),
        (
            conditions({"type": "first_frame"}),
            [SOUND],
            "conditioning.video.conditions: gives pictures, but only",
        ),
        (conditions({"type": "prefix", "frames": [1, 25]}), [video()], "prefix of 25 frames leave nothing"),
        (
            conditions({"type": "prefix", "frames": 9}, {"type": "suffix", "frames": 16}),
            [video()],
            "prefix of 9 and suffix of 16 frames leave nothing to learn of `clips`",
        ),
        (conditions({"type": "first_frame"}), [video(video={"num_frames": 1})], "first_frame of 1"),
        (conditions({"type": "suffix", "frames": 8}), [PICTURES], "pictures of one frame"),
        (conditions({"type": "keyframes", "at": [0, 8]}), [PICTURES], "pictures of one frame"),
        (
            conditions({"type": "keyframes", "at": [0, 25]}),
            [video()],
            "keyframes has frame 25, and the clips of `clips` have 25 frames; write frames from 0 to 24",
        ),
        (conditions(REFERENCE), [video()], "has a reference condition, but no clips have one"),
        (conditions(REFERENCE, modality="audio"), [video()], "has a sound reference condition"),
        (
            {},
            [video(conditioning_data="others"), conditioning("reference_audio")],
            "write conditioning: {audio: {conditions: [{type: reference}]}} in the recipe",
        ),
        (conditions(REFERENCE, modality="audio"), [SILENT], "no dataset has sound"),
        (conditions({"type": "mask"}), [video()], "has a mask condition, but no clips have one"),
        ({}, [video(conditioning_data="others"), conditioning("reference")], "no reference condition"),
        (
            conditions(REFERENCE),
            [video(conditioning_data="others"), conditioning("mask")],
            "no mask condition",
        ),
        (
            conditions(REFERENCE),
            [
                video(conditioning_data="others"),
                conditioning("reference"),
                video(id="more", conditioning_data="half"),
                conditioning("reference", "half", reference_downscale_factor=2),
            ],
            "reference_downscale_factor",
        ),
        (
            conditions(REFERENCE),
            [
                video(conditioning_data=["others", "half"]),
                conditioning("reference"),
                video(id="more", conditioning_data="others"),
                conditioning("reference", "half"),
            ],
            "`clips` has [(1, 1), (1, 1)]; `more` has [(1, 1)]",
        ),
    ],
)
def test_what_it_cannot_is_refused_with_the_key(
    tmp_path: Path, conditioning: dict[str, Any], sets: list[dict[str, Any]], named: str
) -> None:
    with pytest.raises(ConfigError, match=r"conditioning|reference") as caught:
        check(tmp_path, conditioning, *sets)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ([video(conditioning_data="other"), conditioning("mask")], "did you mean `others`"),
        ([video(), conditioning("mask")], "no dataset uses `others`"),
        (
            [
                video(conditioning_data=["others", "twins"]),
                conditioning("mask"),
                conditioning("mask", "twins"),
            ],
            "all of conditioning_type mask",
        ),
        (
            [video(conditioning_data="others"), conditioning("mask", reference_downscale_factor=2)],
            "no meaning",
        ),
        ([video(conditioning_data="others"), conditioning("depth")], "conditioning_type"),
        (
            [video(conditioning_data="others"), conditioning("reference", reference_seconds=3)],
            "reference_seconds has no meaning",
        ),
        (
            [video(conditioning_data="others"), conditioning("reference", reference_downscale_factor=3)],
            "factor",
        ),
        ([conditioning("mask")], "nothing to train on"),
        (
            [{**SOUND, "conditioning_data": "others"}, conditioning("reference")],
            "only the sound is trained, so it has no pictures to condition",
        ),
        (
            [
                video(s2v_datasets=SOUND["id"]),
                {**SOUND, "conditioning_data": "others"},
                conditioning("reference_audio"),
            ],
            "write conditioning_data in the dataset of the clips",
        ),
        (
            [video(conditioning_data="others", audio={"audio_only": True}), conditioning("mask")],
            "has no pictures to condition",
        ),
    ],
)
def test_links_that_lead_nowhere_are_refused(tmp_path: Path, sets: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        datasets(tmp_path, *sets)
    assert named in str(caught.value)


@pytest.mark.parametrize("sets", [[SOUND], [PICTURES], [video(video={"num_frames": 1})]])
def test_the_seeds_first_frame_key_is_named_where_it_is_the_cause(
    tmp_path: Path, sets: list[dict[str, Any]]
) -> None:
    key = "ltx2_first_frame_conditioning_probability"
    recipe = parse(Recipe, {"training": {key: 0.1}}, "recipe")
    with pytest.raises(ConfigError, match=f"training.{key}: "):
        check_agreement(recipe, datasets(tmp_path, *sets))
