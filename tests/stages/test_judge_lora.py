"""judge-lora on real clips and the tiny model: equal, spoilt and better LoRAs, and what decides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from flows.cli.app import app
from flows.display import _places
from ltxcore.config.errors import ConfigError
from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.config.lora_files import COMFYUI_FILE, DIFFUSERS_FILE
from ltxcore.config.promotion_settings import PromotionSettings
from ltxcore.execution import sweep
from ltxcore.execution.execution import find_result
from ltxcore.execution.runner import open_execution, run_work
from ltxcore.jobs.estimate.estimate import estimate
from ltxcore.jobs.publish.judged_loras import is_champion
from ltxcore.jobs.report.run_summary import read_summary
from ltxcore.judging.champions import ChampionError, Champions
from ltxcore.judging.frozen_clips import FrozenClips
from ltxcore.memory.arrangement import Arrangement
from ltxcore.pipeline.base.contract import JUDGE, TRAIN, MissingInput, asked_stages
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.base.stamp import Stamp, output_file, stage_directory, write_stamp
from ltxcore.stages.judge_lora.challenger import challenger_of, check_champion, judged_clips
from ltxcore.stages.train_lora.request import request as train_lora_request
from tests.stages.conftest import Bench, make_bench

HELD_OUT = """
- id: judged
  dataset_type: video
  instance_data_dir: judged
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 17}
"""
GATE: dict[str, Any] = {"model": "sea", "when": {"loss": "better", "sound_loss": {"not_worse_by": 0.05}}}


def gated(bench: Bench, steps: int = 0, **gate: Any) -> Bench:
    """The bench with a gate, and with a training of so many steps."""
    training = bench.recipe.training
    recipe = bench.recipe.model_copy(
        update={
            "promotion": PromotionSettings.model_validate({**GATE, "min_clips": 3, **gate}),
            "training": training.model_copy(update={"max_train_steps": steps}) if steps else training,
        }
    )
    return Bench(bench.root, recipe)


def run_stage(bench: Bench, stage: Any) -> Stamp:
    """A stage as it is run anywhere, in a run of its own."""
    ctx = bench.ctx
    run = ctx.workspace.run(f"run-{stage.name}")
    execution = open_execution(stage, ctx, run)
    if execution is not None:
        assert isinstance(run_work(execution), Stamp)
    _, stamp = find_result(stage, ctx)
    assert stamp is not None
    return stamp


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """Two clips to train on, three held out, and trainings of 2 and of 16 steps."""
    bench = make_bench(tmp_path_factory.mktemp("judged"), sample_clips, tiny_models)
    (bench.root / "judged").mkdir()
    for kind in ("blue-*", "red-*", "twin.mov*"):
        for file in bench.clips.glob(kind):
            file.rename(bench.root / "judged" / file.name)
    datasets = bench.root / "datasets.yaml"
    datasets.write_text(datasets.read_text() + HELD_OUT)
    evaluation = EvaluationSettings(eval_datasets=("judged",), eval_sigmas=(0.3, 0.7), eval_step_interval=99)
    bench = Bench(bench.root, bench.recipe.model_copy(update={"evaluation": evaluation}))
    bench.prepare()
    for steps in (2, 16):
        run_stage(gated(bench, steps), TRAIN)
    return bench


@pytest.fixture
def night(trained: Bench, tmp_path: Path) -> Bench:
    """The same in a folder of this test's own."""
    shutil.copytree(trained.root, tmp_path / "night", symlinks=True)
    return Bench(tmp_path / "night", trained.recipe)


def champions(bench: Bench) -> Champions:
    return Champions(bench.ctx.workspace, "sea")


def training_of(bench: Bench) -> Stamp:
    """The bench's finished training."""
    stamp = find_result(TRAIN, bench.ctx)[1]
    assert stamp is not None
    return stamp


def pretend(bench: Bench, stamp: Stamp, factor: float = 1.0) -> Bench:
    """Let a training have come to another's weights, both factors of each layer that many times as large."""
    ctx = bench.ctx
    request = train_lora_request(ctx)
    directory = stage_directory(ctx.workspace, TRAIN, request)
    files = []
    for file in stamp.outcome.files:
        source = ctx.workspace.root / file.path
        if source.suffix != ".safetensors":
            continue
        with safe_open(source, framework="pt") as opened:
            header = opened.metadata()
        target = directory / "lora" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor * factor for name, tensor in load_file(source).items()}, target, header)
        files.append(output_file(ctx.workspace, target))
    outcome = stamp.outcome.model_copy(update={"files": tuple(files)})
    write_stamp(ctx.workspace, TRAIN, request, outcome, 0.0, 0)
    return bench


def verdict(stamp: Stamp) -> str:
    return str(stamp.outcome.facts["verdict"])


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
    assert fmean(base["video"]) + fmean(base["audio"]) == pytest.approx(measured, rel=1e-6)
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


def test_wherever_the_weights_are_the_losses_are_equal_to_the_bit(trained: Bench, tmp_path: Path) -> None:
    from ltxcore.stages.judge_lora.measuring import Measuring

    ctx = gated(trained, 16).ctx
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
    assert [row["difference"] for row in _gate(equal, stamp)] == [0.0, 0.0]
    current = champions(night).current
    assert current is not None
    assert current.record.version == 1
    taken = run_stage(gated(equal, 3, undecided="take"), JUDGE)
    assert (verdict(taken), taken.outcome.facts["version"]) == ("undecided", 2)


def _gate(bench: Bench, stamp: Stamp) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = json.loads(
        (bench.ctx.workspace.root / stamp.outcome.files[1].path).read_text()
    )["gate"]
    return table


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
    assert [row["clips"] for row in _gate(good, stamp)] == [0, 0], "one clip alone has no interval"


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


def test_without_a_gate_nothing_has_changed(trained: Bench) -> None:
    plain, judged = trained.recipe, gated(trained).recipe
    assert JUDGE not in asked_stages(plain)
    assert set(asked_stages(judged)) - set(asked_stages(plain)) == {JUDGE}
    ctx, with_gate = trained.ctx, gated(trained).ctx
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
