"""The clips that judge-lora compares on: frozen, new, trained on, or trained on once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ltxcore.config.lora_files import DIFFUSERS_FILE
from ltxcore.execution import sweep
from ltxcore.judging.frozen_clips import FrozenClips
from ltxcore.pipeline.base.contract import JUDGE
from ltxcore.stages.judge_lora.challenger import lineage_of
from tests.stages.conftest import Bench
from tests.stages.judged_nights import (
    a_night,
    champions,
    gate_of,
    gated,
    pretend,
    run_stage,
    training_of,
    verdict,
)


@pytest.fixture
def night(tmp_path: Path, sample_clips: Path, tiny_models: Path) -> Bench:
    """The trainings, not judged yet."""
    return a_night(tmp_path / "night", sample_clips, tiny_models)


def test_a_held_out_clip_is_judged_for_good_as_it_was_on_its_first_night(night: Bench) -> None:
    weak, good = gated(night, 2), gated(night, 16)
    run_stage(weak, JUDGE)
    trained_before = training_of(weak)
    (caption,) = (night.root / "judged").glob("red-*.txt")
    before = caption.read_text()
    caption.write_text("Something else altogether.")
    good.probe()
    good.embed()
    later = pretend(gated(night, 4), trained_before)
    stamp = run_stage(later, JUDGE)
    frozen = FrozenClips(champions(night).directory).all()
    assert len(frozen) == 3
    assert before.splitlines()[0].strip() in {clip.caption for clip in frozen}
    losses = json.loads((night.ctx.workspace.root / stamp.outcome.files[0].path).read_text())
    assert losses["champion"] == losses["challenger"], "the same weights meet the same clips"

    # A sweep takes what no kept stage needs; what the frozen clips need stays, text features as well.
    again = pretend(gated(night, 5), trained_before)
    shutil.rmtree(night.ctx.workspace.stages / JUDGE.name)
    assert sweep.apply(night.ctx.workspace, 0.0).stages
    swept = run_stage(again, JUDGE)
    assert swept.outcome.counts["left out"] == 0
    assert json.loads((night.ctx.workspace.root / swept.outcome.files[0].path).read_text()) == losses


def test_what_either_was_trained_on_is_left_out_for_both_and_new_clips_do_not_decide(night: Bench) -> None:
    weak, good = gated(night, 2), gated(night, 16)
    run_stage(weak, JUDGE)
    current = champions(night).current
    assert current is not None
    held_out = sorted(clip.media_id for clip in FrozenClips(champions(night).directory).all())
    record = current.directory / "champion.json"
    changed = json.loads(record.read_text())
    assert not set(held_out) & set(changed["lineage"]["trained_on"])
    assert len(changed["lineage"]["trained_on"]) == 2
    changed["lineage"]["trained_on"].append(held_out[0])
    record.write_text(json.dumps(changed))
    # One of the others is held out for the first time.
    (champions(night).directory / "held-out" / f"{held_out[1]}.json").unlink()
    stamp = run_stage(good, JUDGE)
    assert verdict(stamp) == "too few clips"
    assert stamp.outcome.counts["left out"] == 1
    losses = json.loads((night.ctx.workspace.root / stamp.outcome.files[0].path).read_text())
    assert all(sorted(side) == held_out[1:] for side in losses.values())
    page = (night.ctx.workspace.root / stamp.outcome.files[2].path).read_text()
    assert "version 1 was trained on it" in page
    assert [row["clips"] for row in gate_of(good, stamp)] == [0, 0], "one clip alone has no interval"


def test_a_lora_knows_what_the_one_was_trained_on_that_it_goes_on_from(night: Bench) -> None:
    """A clip that was trained on then, and is held out now, says nothing of it."""
    weak = gated(night, 2)
    run_stage(weak, JUDGE)
    current = champions(night).current
    assert current is not None
    one = FrozenClips(champions(night).directory).all()[0].media_id
    record = json.loads((current.directory / "champion.json").read_text())
    record["lineage"]["trained_on"].append(one)
    (current.directory / "champion.json").write_text(json.dumps(record))

    def begun_with(file: Path, steps: int) -> Bench:
        bench = gated(night, steps, decide="never")
        lora = bench.recipe.lora.model_copy(update={"init_from": str(file)})
        on = Bench(bench.root, bench.recipe.model_copy(update={"lora": lora}))
        return pretend(on, training_of(gated(night, 16)))

    steady = night.ctx.workspace.champions / "sea"
    on = begun_with(steady / DIFFUSERS_FILE, 4)
    lineage = lineage_of(on.ctx, training_of(on))
    assert lineage.goes_on_from == current.record.files[DIFFUSERS_FILE]
    assert (one in lineage.trained_on, lineage.unknown_origin) == (True, False)
    champions(night).directory.rename(night.root / "taken away")
    (night.ctx.workspace.champions / "sea").unlink()
    foreign = begun_with(night.root / "taken away/0001" / DIFFUSERS_FILE, 4)
    lineage = lineage_of(foreign.ctx, training_of(foreign))
    assert (one in lineage.trained_on, lineage.unknown_origin) == (False, True)
    stamp = run_stage(foreign, JUDGE)
    page = (night.ctx.workspace.root / stamp.outcome.files[2].path).read_text()
    assert "it is not known here what it was trained on" in page
