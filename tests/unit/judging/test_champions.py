"""Champions: exchanged whole or not at all, whoever is killed when, and found again by their files."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltxcore.judging import champions as module
from ltxcore.judging.champions import (
    Candidate,
    ChampionError,
    ChampionMoved,
    Champions,
    Lineage,
    NoChampion,
    all_models,
    made_by,
)
from ltxcore.store.fingerprint import hash_file
from ltxcore.store.workspace import Workspace

FILES = ("pytorch_lora_weights.safetensors", "ltx2_lora_comfyui.safetensors")
COMFYUI = FILES[1]


def lora(root: Path, name: str) -> tuple[Candidate, Path]:
    """A judged LoRA of that name, whose files say it."""
    folder = root / f"lora-{name}"
    folder.mkdir(exist_ok=True)
    for file in FILES:
        (folder / file).write_text(f"{name} in {file}")
    lineage = Lineage(base="base", snapshot="snap", trained_on=(f"clip of {name}",), recipe={})
    files = {file: hash_file(folder / file) for file in FILES}
    return Candidate(training=name, files=files, verdict="promoted", gate=[], lineage=lineage), folder


def seen(workspace: Workspace) -> str:
    """What ComfyUI finds under the steady path."""
    return (workspace.champions / "sea" / COMFYUI).read_text().split()[0]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def test_the_steady_path_always_leads_to_the_champion(workspace: Workspace, tmp_path: Path) -> None:
    sea = Champions(workspace, "sea")
    assert sea.current is None
    first = sea.promote(*lora(tmp_path, "a"), by="gate", expected=None)
    second = sea.promote(*lora(tmp_path, "b"), by="gate", expected=1)
    assert (first.record.version, second.record.version, second.record.instead_of) == (1, 2, 1)
    assert seen(workspace) == "b"
    assert sea.current == second
    shutil.rmtree(tmp_path / "lora-b")
    assert not second.faults(), "it does not need the training's folder"
    shutil.move(workspace.root, tmp_path / "moved")
    assert seen(Workspace(tmp_path / "moved")) == "b", "a workspace can be moved"


def test_rollback_goes_back_step_by_step_and_a_version_can_be_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    sea = Champions(workspace, "sea")
    with pytest.raises(NoChampion, match="no champion to take back"):
        sea.roll_back()
    for number, name in enumerate("abc"):
        sea.promote(*lora(tmp_path, name), by="gate", expected=number or None)
    assert sea.roll_back().record.training == "b"
    assert sea.roll_back().record.training == "a"
    with pytest.raises(NoChampion, match="version 1 is the first champion of sea"):
        sea.roll_back()
    assert sea.roll_back(3).record.training == "c"
    assert seen(workspace) == "c"
    with pytest.raises(NoChampion, match="no version 9; it has: 1, 2, 3"):
        sea.roll_back(9)
    assert [one.record.version for one in sea.versions()] == [3, 2, 1]
    assert [model.model for model in all_models(workspace)] == ["sea"]


def test_promoting_twice_is_promoting_once(workspace: Workspace, tmp_path: Path) -> None:
    sea = Champions(workspace, "sea")
    sea.promote(*lora(tmp_path, "a"), by="gate", expected=None)
    for _ in range(2):
        assert sea.promote(*lora(tmp_path, "b"), by="gate", expected=1).record.version == 2
    assert sea.opponent("b") == sea.version(1), "it is measured again against the one before it"
    assert sea.opponent("c") == sea.version(2)
    assert sea.opponent("a") == sea.version(2)


def test_of_two_nights_at_once_the_second_does_not_overwrite_the_first(
    workspace: Workspace, tmp_path: Path
) -> None:
    sea = Champions(workspace, "sea")
    sea.promote(*lora(tmp_path, "a"), by="gate", expected=None)
    sea.promote(*lora(tmp_path, "b"), by="gate", expected=1)
    with pytest.raises(ChampionMoved, match="was version 1 when it was measured and is version 2 now"):
        sea.promote(*lora(tmp_path, "c"), by="gate", expected=1)
    assert seen(workspace) == "b"


def test_a_file_that_is_not_what_was_judged_never_becomes_the_champion(
    workspace: Workspace, tmp_path: Path
) -> None:
    sea = Champions(workspace, "sea")
    sea.promote(*lora(tmp_path, "a"), by="gate", expected=None)
    candidate, folder = lora(tmp_path, "b")
    (folder / COMFYUI).write_text("other")
    with pytest.raises(ChampionError, match="is not what was judged"):
        sea.promote(candidate, folder, by="gate", expected=1)
    (folder / COMFYUI).unlink()
    with pytest.raises(ChampionError, match="is gone; the champion stays"):
        sea.promote(candidate, folder, by="gate", expected=1)
    assert seen(workspace) == "a"
    assert [one.record.version for one in sea.versions()] == [1]
    sea.promote(*lora(tmp_path, "b"), by="gate", expected=1)
    (workspace.champions / ".sea/0001" / COMFYUI).write_text("rotten")
    with pytest.raises(ChampionError, match="is not what was written"):
        sea.roll_back()
    assert seen(workspace) == "b"


def test_a_champion_whose_files_are_gone_is_told_with_what_to_do(
    workspace: Workspace, tmp_path: Path
) -> None:
    sea = Champions(workspace, "sea")
    sea.promote(*lora(tmp_path, "a"), by="gate", expected=None)
    sea.promote(*lora(tmp_path, "b"), by="gate", expected=1)
    shutil.rmtree(workspace.champions / ".sea/0002")
    with pytest.raises(ChampionError, match="ltx2 rollback sea --to VERSION"):
        _ = sea.current
    assert sea.roll_back(1).record.training == "a"
    (workspace.champions / "rock").mkdir()
    with pytest.raises(ChampionError, match="rock is no link to a champion; move it away"):
        _ = Champions(workspace, "rock").current
    for name in ("a/b", "..", ".sea", ""):
        with pytest.raises(NoChampion, match="is no model's name"):
            Champions(workspace, name)


def test_what_a_champion_was_trained_on_is_found_by_its_file(workspace: Workspace, tmp_path: Path) -> None:
    candidate, folder = lora(tmp_path, "a")
    Champions(workspace, "sea").promote(candidate, folder, by="hand", expected=None)
    assert made_by(workspace, candidate.files[COMFYUI]) == candidate.lineage
    assert made_by(workspace, "0" * 64) is None


STEPS: tuple[tuple[Any, str], ...] = (
    (module, "_copy"),
    (module, "fault_of"),
    (module, "write_json"),
    (module, "sync_directory"),
    (module.shutil, "rmtree"),
    (Path, "symlink_to"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "unlink"),
)
"""All that changes a disk, or comes between two such steps."""


def _die_at(number: int, workspace: Workspace, act: Callable[[Champions], object]) -> None:
    """Be killed right before a step, or right after it."""
    left = [number]

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            for when in (0, 1):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                if when == 0:
                    result = step(*args, **kwargs)
            return result

        return call

    for owner, name in STEPS:
        setattr(owner, name, deadly(getattr(owner, name)))
    act(Champions(workspace, "sea"))
    os._exit(0)


@pytest.mark.parametrize("what", ["promote", "rollback"])
def test_kill_9_between_any_two_steps_leaves_one_whole_champion(what: str, tmp_path: Path) -> None:
    start = Workspace(tmp_path / "start")
    for number, name in enumerate("ab"):
        Champions(start, "sea").promote(*lora(tmp_path, name), by="gate", expected=number or None)
    candidate, folder = lora(tmp_path, "c")

    def act(sea: Champions) -> str:
        done = sea.promote(candidate, folder, "gate", 2) if what == "promote" else sea.roll_back(1)
        return done.record.training

    fork = multiprocessing.get_context("fork")
    ends, after = set(), "c" if what == "promote" else "a"
    for number in range(100):
        space = Workspace(tmp_path / f"killed-{number}")
        shutil.copytree(start.root, space.root, symlinks=True)
        child = fork.Process(target=_die_at, args=(number, space, act))
        child.start()
        child.join()
        sea = Champions(space, "sea")
        assert sea.current is not None
        assert not sea.current.faults()
        assert seen(space) == sea.current.record.training
        ends.add(seen(space))
        assert act(sea) == after, "the next try does it"
        assert seen(space) == after
        shutil.rmtree(space.root)
        if child.exitcode == 0:
            break
    assert child.exitcode == 0
    assert number >= (4 if what == "rollback" else 15)
    assert ends == {"b", after}
