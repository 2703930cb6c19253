"""judge-lora on real clips and the tiny model: equal, spoilt and better LoRAs, and what decides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.display import _places
from ltxcore.config.errors import ConfigError
from ltxcore.config.lora_files import COMFYUI_FILE, DIFFUSERS_FILE
from ltxcore.execution.execution import find_result
from ltxcore.execution.runner import open_execution
from ltxcore.jobs.estimate.estimate import estimate
from ltxcore.jobs.publish.judged_loras import is_champion
from ltxcore.jobs.report.run_summary import read_summary
from ltxcore.judging.champions import ChampionError, ChampionMoved
from ltxcore.memory.arrangement import Arrangement
from ltxcore.pipeline.base.contract import JUDGE, TRAIN, MissingInput, asked_stages
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.base.work import Result
from ltxcore.stages.judge_lora.challenger import challenger_of, check_champion, judged_clips
from ltxcore.stages.judge_lora.work import JudgeLora
from tests.rounding import TINY_TERMS, bound
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


def test_a_first_lora_a_better_one_and_a_spoilt_one(night: Bench) -> None:
    """Three nights: nothing to compare, promoted, refused; and every night again changes nothing."""
    weak, good = gated(night, 2), gated(night, 16)
    first = run_stage(weak, JUDGE)
    assert verdict(first) == "nothing to compare"
    assert "this LoRA is its version 1" in first.outcome.facts["sentence"]

    better = run_stage(good, JUDGE)
    assert verdict(better) == "promoted", better.outcome.facts["sentence"]
    current = champions(night).current
    assert current is not None
    assert (current.record.version, current.record.instead_of, current.record.by) == (2, 1, "gate")
    losses = json.loads((good.ctx.workspace.root / better.outcome.files[0].path).read_text())
    assert set(losses) == {"base", "champion", "challenger"}
    for side in losses.values():
        assert len(side) == 3
        for clip in side.values():
            assert {kind: sorted(values) for kind, values in clip.items()} in (
                {"video": ["0.3", "0.7"], "audio": ["0.3", "0.7"]},
                {"video": ["0.3", "0.7"]},
            )
    # The base, measured here, is what the training has measured before its first step.
    base = {k: [v for clip in losses["base"].values() for v in clip[k].values()] for k in ("video", "audio")}
    measured = training_of(weak).outcome.facts["eval_loss_base"]
    # A forward pass each, over batches of other clips.
    allowed = bound(TINY_TERMS, 1.0)
    assert fmean(base["video"]) + fmean(base["audio"]) == pytest.approx(measured, rel=allowed)
    steady = night.ctx.workspace.champions / "sea"
    summary = read_summary(good.ctx.workspace, good.ctx.workspace.run("run-judge-lora"))
    assert summary is not None
    shown = "".join(f"{name} {value}\n" for name, value in _places(good.ctx.workspace, steady, summary, ""))
    assert "Verdict Promoted, against version 1 of sea" in shown
    assert "gate.html" in shown
    lora = good.ctx.workspace.root / better.outcome.facts["lora"]
    for name in (DIFFUSERS_FILE, COMFYUI_FILE):
        assert (steady / name).read_bytes() == (lora / name).read_bytes()
    page = (good.ctx.workspace.root / better.outcome.files[2].path).read_text()
    assert "Promoted, against version 1 of sea" in page
    assert '<tr class="green"><td>loss</td>' in page
    assert "Better by most" in page

    # Promoted or not, what is judged is judged.
    again = find_result(JUDGE, good.ctx)[1]
    assert again == better
    champions(night).roll_back()
    assert find_result(JUDGE, good.ctx)[1] == better, "what a person took back stays taken back"
    champions(night).roll_back(2)

    spoilt = pretend(gated(night, 3), training_of(good), 30)
    refused = run_stage(spoilt, JUDGE)
    assert verdict(refused) == "refused", refused.outcome.facts["sentence"]
    assert champions(night).current == current
    assert "the champion stays" in refused.outcome.facts["sentence"]


def test_wherever_the_weights_are_the_losses_are_equal_to_the_bit(night: Bench, tmp_path: Path) -> None:
    from ltxcore.stages.judge_lora.measuring import Measuring

    ctx = gated(night, 16).ctx
    clips = judged_clips(ctx, "")
    files = {"base": None, "challenger": challenger_of(ctx).directory / DIFFUSERS_FILE}
    found = [
        [measuring.losses(side, clips[0].media_id) for side in files]
        for measuring in (
            Measuring(ctx, tmp_path, "cpu", arrangement, clips, files)
            for arrangement in (
                Arrangement(),
                Arrangement("block_streaming"),
                Arrangement("group_offload", connectors="streamed"),
                Arrangement(connectors="precomputed"),
            )
        )
    ]
    assert found[0][0] != found[0][1]
    assert all(other == found[0] for other in found[1:])


def test_an_equal_lora_is_undecided_and_kept_out_or_taken_as_the_recipe_says(night: Bench) -> None:
    good = gated(night, 16)
    run_stage(good, JUDGE)
    equal = pretend(gated(night, 3), training_of(good))
    stamp = run_stage(equal, JUDGE)
    assert verdict(stamp) == "undecided", stamp.outcome.facts["sentence"]
    assert [row["difference"] for row in gate_of(equal, stamp)] == [0.0, 0.0]
    current = champions(night).current
    assert current is not None
    assert current.record.version == 1
    taken = run_stage(gated(equal, 3, undecided="take"), JUDGE)
    assert (verdict(taken), taken.outcome.facts["version"]) == ("undecided", 2)


def test_never_measures_alone_and_two_clips_decide_nothing(night: Bench) -> None:
    weak, good = gated(night, 2), gated(night, 16)
    run_stage(weak, JUDGE)
    stamp = run_stage(gated(night, 16, decide="never"), JUDGE)
    assert (verdict(stamp), stamp.outcome.facts["version"]) == ("promoted", None)
    assert "`ltx2 promote` exchanges it" in stamp.outcome.facts["sentence"]
    before = training_of(weak)
    (night.root / "judged/twin.mov").unlink()
    night.probe()
    fewer = pretend(good, before)
    few = run_stage(fewer, JUDGE)
    assert verdict(few) == "too few clips"
    assert "on 2 clips that were held out before" in few.outcome.facts["sentence"]


def test_the_second_of_two_nights_at_once_is_measured_against_the_first(
    night: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage(gated(night, 2), JUDGE)
    good, other = gated(night, 16), pretend(gated(night, 5), training_of(gated(night, 16)))
    whole = JudgeLora.outcome

    def outcome(self: JudgeLora) -> Result:
        monkeypatch.undo()
        run_stage(other, JUDGE)
        return whole(self)

    monkeypatch.setattr(JudgeLora, "outcome", outcome)
    with pytest.raises(ChampionMoved, match="was version 1 when it was measured and is version 2 now"):
        run_stage(good, JUDGE)
    again = run_stage(good, JUDGE)
    assert verdict(again) == "undecided", "it is equal to the other night's"
    current = champions(night).current
    assert current is not None
    assert current.record.training == training_of(other).fingerprint


def test_what_was_measured_before_a_crash_is_not_measured_again(
    night: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltxcore.stages.judge_lora.measuring import Measuring

    bench, measured, whole = gated(night, 2), [0], Measuring.losses

    def counted(self: Measuring, side: str, media_id: str) -> Any:
        measured[0] += 1
        if measured[0] in (5, 6):
            raise OSError("the power is cut")
        return whole(self, side, media_id)

    monkeypatch.setattr(Measuring, "losses", counted)
    with pytest.raises(OSError, match="the power is cut"):
        run_stage(bench, JUDGE)
    assert champions(night).current is None
    stamp = run_stage(bench, JUDGE)
    assert verdict(stamp) == "nothing to compare"
    assert measured[0] == 6 + 3, "the base's three losses were on the disk"


def test_a_champion_with_which_nothing_can_be_compared_is_refused_by_name(night: Bench) -> None:
    weak, good = gated(night, 2), gated(night, 16)
    with pytest.raises(MissingInput, match=r"judge-lora needs the LoRA .* run the stage train-lora first"):
        find_result(JUDGE, gated(night, 9).ctx)
    with pytest.raises(ConfigError, match=r"write promotion: \{model: my-lora\}"):
        find_result(JUDGE, night.ctx)
    run_stage(weak, JUDGE)
    current = champions(night).current
    assert current is not None
    (current.directory / DIFFUSERS_FILE).write_bytes(b"rotten")
    with pytest.raises(ChampionError, match=r"is not what was written\n.*`ltx2 rollback sea`"):
        run_stage(good, JUDGE)
    record = json.loads((current.directory / "champion.json").read_text())
    record["lineage"]["base"] = "another"
    (current.directory / "champion.json").write_text(json.dumps(record))
    for ask in (lambda: find_result(JUDGE, good.ctx), lambda: check_champion(good.ctx, Here())):
        with pytest.raises(ConfigError, match="sea, whose version 1 is of another base model"):
            ask()
    shutil.rmtree(current.directory)
    with pytest.raises(ConfigError, match="its files are gone"):
        find_result(JUDGE, good.ctx)


def test_without_a_gate_nothing_has_changed(night: Bench) -> None:
    plain, judged = night.recipe, gated(night).recipe
    assert JUDGE not in asked_stages(plain)
    assert set(asked_stages(judged)) - set(asked_stages(plain)) == {JUDGE}
    ctx, with_gate = night.ctx, gated(night).ctx
    for stage in asked_stages(plain)[:-1]:
        assert find_result(stage, ctx)[0] == find_result(stage, with_gate)[0], stage.name
    names = [{stage.stage.name for stage in estimate(one).stages} for one in (ctx, with_gate)]
    assert names[1] - names[0] == {"judge-lora"}
    assert [stage.to_do for stage in estimate(with_gate).stages if stage.stage is JUDGE] == [3]


def test_champions_from_the_command_line(night: Bench) -> None:
    weak, good = gated(night, 2), gated(night, 16, decide="never")
    run_stage(weak, JUDGE)
    better = run_stage(good, JUDGE)
    there = ["--workspace", str(night.root / "workspace")]

    def ltx2(*words: str, fails: bool = False) -> str:
        done = CliRunner().invoke(app, [*words, *there])
        assert (done.exit_code != 0) == fails, done.output
        return done.output

    training = str(better.outcome.facts["training"])
    assert training[:16] not in ltx2("models")
    assert "no judged training begins with 'zz'" in ltx2("promote", "sea", "zz", fails=True)
    promoted = json.loads(ltx2("promote", "sea", training[:8], "--json"))
    assert (promoted["version"], promoted["by"], promoted["verdict"]) == (2, "hand", "promoted")
    assert [row["metric"] for row in promoted["gate"]] == ["loss", "sound_loss"]
    assert training[:16] in ltx2("models")
    (model,) = json.loads(ltx2("models", "--json"))
    assert (model["champion"], [version["version"] for version in model["versions"]]) == (2, [2, 1])
    assert "sea is version 1" in ltx2("rollback", "sea")
    assert "is the first champion of sea" in ltx2("rollback", "sea", fails=True)
    assert "sea is version 2" in ltx2("promote", "sea", "2")
    shutil.rmtree(night.ctx.workspace.champions / ".sea/0002")
    assert "its files are gone" in ltx2("models")
    assert json.loads(ltx2("rollback", "sea", "--to", "1", "--json"))["version"] == 1
    assert "is no model's name" in ltx2("rollback", "a/b", fails=True)


def test_only_the_champion_is_published(night: Bench) -> None:
    weak, good = gated(night, 2), gated(night, 16)
    runs = {}
    for bench in (weak, good):
        run_stage(bench, JUDGE)
        runs[bench] = bench.ctx.workspace.run(f"night-{bench.recipe.training.max_train_steps}")
        assert open_execution(TRAIN, bench.ctx, runs[bench]) is None
    assert [is_champion(bench.ctx, run) for bench, run in runs.items()] == [False, True]
    champions(night).roll_back()
    assert [is_champion(bench.ctx, run) for bench, run in runs.items()] == [True, False]
