"""Where a training begins: this one's newest, a named one, one that it may continue, or the start."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltxcore.store.blobs import read_json
from ltxcore.training.checkpoints import write_checkpoint
from ltxcore.training.early_stop import EVALUATIONS_FILE
from ltxcore.training.metrics import METRICS_FILE
from ltxcore.training.resume import ForeignCheckpoint, NoSuchCheckpoint, Start, find_start
from tests.unit.training.test_checkpoints import checkpoint

REQUEST: dict[str, Any] = {
    "data": "d1",
    "trigger": "",
    "lora": {"lora_rank": 16, "trigger": None},
    "training": {
        "learning_rate": 0.1,
        "max_train_steps": 10,
        "num_train_epochs": 0,
        "lr_scheduler": "constant_with_warmup",
    },
}


def changed(section: str = "", **keys: object) -> dict[str, Any]:
    return {**REQUEST, section: {**REQUEST[section], **keys}} if section else {**REQUEST, **keys}


def save(directory: Path, *steps: int, request: dict[str, Any] = REQUEST) -> None:
    records = {METRICS_FILE: f"the record of {directory.name}\n".encode(), EVALUATIONS_FILE: b"its losses\n"}
    for step in steps:
        whole = replace(checkpoint(step), request=request, run_fingerprint=str(request), records=records)
        write_checkpoint(directory, whole, limit=9)


def begin(
    directory: Path, request: dict[str, Any] = REQUEST, choice: str = "latest", total: int = 0
) -> Start:
    length = total or request["training"]["max_train_steps"]
    return find_start(directory, str(request), request, choice, length)


def test_the_newest_whole_one_is_continued_and_a_broken_one_is_reported(tmp_path: Path) -> None:
    save(tmp_path / "a", 2, 4)
    assert (begin(tmp_path / "a").step, begin(tmp_path / "a").notes) == (4, ())
    (tmp_path / "a/checkpoint-4/lora.safetensors").write_bytes(b"")
    start = begin(tmp_path / "a")
    assert start.step == 2
    assert "checkpoint-4 is broken and was passed over" in start.notes[0]


@pytest.mark.parametrize(
    ("evaluation", "continued"),
    [({}, True), ({"early_stop_patience": 3}, False), ({"export": "best"}, False)],
)
def test_what_is_exported_may_change_where_its_loss_decides_nothing(
    tmp_path: Path, evaluation: dict[str, object], continued: bool
) -> None:
    before = {**changed("training", ema_export="beside"), "evaluation": evaluation}
    save(tmp_path / "a", 2, request=before)
    now = {**before, "training": {**before["training"], "ema_export": "instead"}}
    start = begin(tmp_path / "b", now)
    assert start.step == (2 if continued else 0)
    assert 'training.ema_export: "beside" -> "instead"' in start.notes[-1]
    assert ("decides when to stop" in start.notes[-1]) is not continued


def test_nothing_there_is_the_start(tmp_path: Path) -> None:
    assert begin(tmp_path / "a") == Start(None)


def test_none_begins_anew(tmp_path: Path) -> None:
    save(tmp_path / "a", 2)
    assert begin(tmp_path / "a", choice="none").step == 0


def test_one_of_its_own_is_continued_by_name(tmp_path: Path) -> None:
    save(tmp_path / "a", 2, 4)
    assert begin(tmp_path / "a", choice="checkpoint-2").step == 2
    with pytest.raises(NoSuchCheckpoint, match="this training has: checkpoint-2, checkpoint-4"):
        begin(tmp_path / "a", choice="checkpoint-3")


def test_a_longer_training_continues_the_shorter_one_with_its_record(tmp_path: Path) -> None:
    save(tmp_path / "short", 5, 10)
    longer = changed("training", max_train_steps=20)
    start = begin(tmp_path / "long", longer)
    assert start.step == 10
    assert start.notes == (
        "continued from the training in short",
        "changed since step 10: training.max_train_steps: 10 -> 20",
    )
    assert not (tmp_path / "long").exists()
    start.note(tmp_path / "long")
    assert (tmp_path / "long" / METRICS_FILE).read_text() == "the record of short\n"
    assert not (tmp_path / "long" / EVALUATIONS_FILE).exists(), "what was held out may differ"
    noted = read_json(tmp_path / "long/resume.json")
    assert (noted["step"], noted["notes"]) == (10, list(start.notes))


def test_the_same_training_in_another_directory_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path / "a", 10)
    assert begin(tmp_path / "b") == Start(None)


def test_a_new_trigger_is_written_into_the_files_of_what_is_trained(tmp_path: Path) -> None:
    save(tmp_path / "a", 10)
    assert begin(tmp_path / "b", {**changed("lora", trigger="zork"), "trigger": "zork"}).step == 10


def test_another_recipe_begins_anew_and_says_what_differs(tmp_path: Path) -> None:
    save(tmp_path / "a", 4)
    start = begin(tmp_path / "b", {**changed("training", learning_rate=0.2), "data": "d2"})
    assert start.step == 0
    assert start.notes == (
        "begun anew: the training in a (step 4) differs in "
        'data: "d1" -> "d2" (what was computed before would differ); '
        "training.learning_rate: 0.1 -> 0.2 (what was computed before would differ)",
    )


def test_a_schedule_that_depends_on_the_length_is_no_continuation(tmp_path: Path) -> None:
    cosine = changed("training", lr_scheduler="cosine")
    save(tmp_path / "a", 10, request=cosine)
    longer = {**cosine, "training": {**cosine["training"], "max_train_steps": 20}}
    assert begin(tmp_path / "b", longer).step == 0
    with pytest.raises(
        ForeignCheckpoint, match=r"max_train_steps: 10 -> 20 \(the cosine schedule depends on the length"
    ):
        begin(tmp_path / "b", longer, choice=str(tmp_path / "a/checkpoint-10"))


def test_a_shorter_training_does_not_go_back(tmp_path: Path) -> None:
    save(tmp_path / "a", 10)
    shorter = changed("training", max_train_steps=5)
    assert begin(tmp_path / "b", shorter).step == 0
    with pytest.raises(ForeignCheckpoint, match="10 steps are done already, and 5 are asked for"):
        begin(tmp_path / "b", shorter, choice=str(tmp_path / "a/checkpoint-10"))


def test_a_named_one_of_another_training_is_refused_key_by_key(tmp_path: Path) -> None:
    save(tmp_path / "a", 4)
    other = {**changed("lora", lora_rank=32), "data": "d2"}
    with pytest.raises(ForeignCheckpoint) as refused:
        begin(tmp_path / "b", other, choice=str(tmp_path / "a/checkpoint-4"))
    assert 'data: "d1" -> "d2"' in str(refused.value)
    assert "lora.lora_rank: 16 -> 32" in str(refused.value)
    assert "resume_from_checkpoint: none" in str(refused.value)
    assert "learning_rate" not in str(refused.value)


def test_among_others_the_newest_that_fits_is_continued(tmp_path: Path) -> None:
    save(tmp_path / "other", 6, request=changed("training", learning_rate=0.7))
    save(tmp_path / "older", 5)
    save(tmp_path / "newer", 7)
    for age, name in enumerate(("newer", "older", "other")):
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert begin(tmp_path / "b", changed("training", max_train_steps=20)).step == 7
