"""ltx2 plan and validate: one answer, for the machine here and for a card that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from flows.cli.app import app
from ltxcore.jobs.job import Job
from tests.hub_server import FakeHub, Repository
from tests.stages.conftest import Bench

NARROW = 80


def ltx2(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": str(NARROW)})


def places(bench: Bench) -> list[str]:
    root = bench.root
    return ["--workspace", str(root / "workspace"), "--datasets", str(root / "datasets.yaml")]


def answers(*words: str) -> Any:
    done = ltx2(*words, "--json")
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout)


def real(tmp_path: Path, more: str = "") -> str:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{pretrained_model_name_or_path: Lightricks/LTX-2}}\n{more}")
    return str(recipe)


def test_nothing_is_unknown_without_weights(bench: Bench, tmp_path: Path) -> None:
    (found,) = answers("plan", *places(bench), "--recipe", real(tmp_path), "--card", "4090")
    assert found["can_start"], found["problems"]
    assert [stage["stage"] for stage in found["stages"] if None in (stage["to_do"], stage["seconds"])] == []
    assert [stage["stage"] for stage in found["stages"] if stage["disk_bytes"] is None] == []
    training = next(stage for stage in found["stages"] if stage["stage"] == "train-lora")
    assert 8 < training["device_gib"] < 23.5
    assert training["host_gib"] > 3
    text = ltx2("plan", *places(bench), "--recipe", real(tmp_path), "--card", "4090").stdout
    assert text.startswith("Yes, on RTX 4090")
    assert "?" not in text


def test_the_price_is_the_time_times_the_price_of_an_hour(bench: Bench, tmp_path: Path) -> None:
    words = ["plan", *places(bench), "--recipe", real(tmp_path), "--card", "h200"]
    (found,) = answers(*words, "--price-per-hour", "3.6")
    assert found["price"] == pytest.approx(found["seconds"] / 1000)
    assert sum(stage["price"] for stage in found["stages"]) == pytest.approx(found["price"])


def test_a_budget_that_cannot_hold_it_is_no_and_says_what_would(bench: Bench, tmp_path: Path) -> None:
    small = real(tmp_path, "memory: {vram_gib: 6}\n")
    done = ltx2("validate", *places(bench), "--recipe", small, "--card", "4090")
    assert done.exit_code == 1, done.output
    assert done.stdout.startswith("No, not on RTX 4090")
    assert "memory.vram_gib" in done.stdout
    assert "no fit" in done.stdout


def test_without_weights_and_offline_no_run_can_start(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = ltx2("validate", *places(bench), "--recipe", real(tmp_path))
    assert done.exit_code == 1
    assert "Lightricks/LTX-2 is not on this machine, and HF_HUB_OFFLINE is set" in done.stdout


def test_a_hub_id_is_asked_for_when_online(bench: Bench, tmp_path: Path, hub: FakeHub) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {pretrained_model_name_or_path: some/where-else}")
    done = ltx2("validate", *places(bench), "--recipe", str(recipe))
    assert done.exit_code == 1
    assert "there is no model some/where-else on the hub" in done.stdout


def test_cards_of_one_size_differ_with_a_reason(tmp_path: Path) -> None:
    words = ["plan", "--size", "832x480", "--frames", "17", "--batch", "2", "--recipe", real(tmp_path)]
    done = ltx2(*words, "--workspace", str(tmp_path / "none"), "--card", "3090", "--card", "4090")
    assert done.exit_code == 0, done.output
    reasons = [line for line in done.stdout.splitlines() if "a block computes" in line]
    assert [line.split(":")[0] for line in reasons] == ["RTX 3090", "RTX 4090"]
    rows = [line for line in done.stdout.splitlines() if line.startswith(" RTX")]
    assert all(len(line) <= NARROW for line in rows)


def test_the_newest_version_is_planned_without_any_file(tmp_path: Path) -> None:
    done = ltx2("plan", "--version", "2.5", "--workspace", str(tmp_path / "none"), "--clips", "7")
    assert done.exit_code == 0, done.output
    assert "LTX-2.5 at full size, 7 clips of 768x512, 49 frames" in done.stdout
    assert "H200" in done.stdout
    for wrong in (["--size", "830x480"], ["--frames", "50"], ["--card", "2090"], ["--version", "9"]):
        assert ltx2("plan", *wrong).exit_code == 2, wrong


def test_what_is_done_already_is_said_in_the_first_line(bench: Bench) -> None:
    bench.look()
    done = ltx2("validate", *places(bench))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Yes, on this machine")
    assert "a run can start" in done.stdout


def test_the_diffusion_decoder_is_planned(tmp_path: Path) -> None:
    found = {}
    for decoder in ("conv", "diffusion"):
        recipe = tmp_path / f"{decoder}.yaml"
        recipe.write_text(f"validation: {{validation_resolution: 768x512, decoder: {decoder}}}\n")
        words = ["--size", "768x512", "--workspace", str(tmp_path / "none"), "--card", "h200"]
        (answer,) = answers("plan", *words, "--version", "2.5", "--recipe", str(recipe))
        stages = {stage["stage"]: stage for stage in answer["stages"]}
        found[decoder] = stages["render-validation"]["device_gib"]
    # Its weights in bf16 and what its last stage takes: 49 frames and 16 more of 128x192 cells.
    assert found["diffusion"] - found["conv"] > 0.7 + 4
    other = ltx2("plan", *words, "--version", "2.3", "--recipe", str(recipe))
    assert other.stdout.startswith("No, not on H200")
    assert "decoder: conv" in " ".join(other.stdout.split())


def test_what_is_not_named_is_that_of_the_newest_run_and_the_first_line_says_so(
    bench: Bench, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("training: {max_train_steps: 7, lr_warmup_steps: 0}")
    root = bench.root
    job = Job(root / "workspace", root / "datasets.yaml", recipe, run="mine")
    job.workspace.note_newest_run(job.folder)
    for command in ("validate", "plan", "explain"):
        done = ltx2(command, "--workspace", str(root / "workspace"))
        assert done.exit_code == 0, done.output
        first = done.stderr.splitlines()[0]
        assert first.startswith("of the newest run, mine: recipe ")
        assert str(recipe) in first
        assert str(root / "datasets.yaml") in first
    (found,) = answers("plan", "--workspace", str(root / "workspace"), "--card", "4090")
    assert found["stages"][4]["to_do"] == 60, "the tiny model needs no card: LTX-2 is planned in its place"
    here = answers("validate", "--workspace", str(root / "workspace"))
    assert here["stages"][4]["to_do"] == 7


def test_the_second_stage_of_renderings_is_planned(tmp_path: Path) -> None:
    found = []
    for second in ("", ", upscale: 2"):
        recipe = real(tmp_path, f"validation: {{validation_resolution: 768x512{second}}}\n")
        words = ["--size", "768x512", "--workspace", str(tmp_path / "none"), "--card", "h200"]
        (answer,) = answers("plan", *words, "--recipe", recipe)
        found.append(next(stage for stage in answer["stages"] if stage["stage"] == "render-validation"))
    one, two = found
    # The upsampler is 497,867,904 values in bf16; four times the tokens take three times the memory here.
    assert two["device_gib"] - one["device_gib"] > 0.93 + 3
    # Three more steps of four times the tokens, of 40.
    assert 1.25 < two["seconds"] / one["seconds"] < 2.5


def test_weights_that_the_disk_cannot_take_are_said_before(
    bench: Bench, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["Lightricks/LTX-2"] = Repository(private=False)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 30 * 10**9})())
    done = ltx2("validate", *places(bench), "--recipe", real(tmp_path))
    assert done.exit_code == 1
    assert "about 67 GB of weights would be downloaded to" in done.stdout
    assert "30 GB are free there" in done.stdout
    assert "there is no model" not in done.stdout, "the hub has it"


def test_without_weights_what_is_encoded_is_counted_as_with_them(bench: Bench, tmp_path: Path) -> None:
    bench.look()
    given = bench.root / "given.yaml"
    given.write_text("conditioning: {video: {conditions: [{type: keyframes, at: [0, -1]}]}}\n")
    (here,) = (answers("validate", *places(bench), "--recipe", str(given)),)
    (there,) = answers("plan", *places(bench), "--recipe", str(given), "--version", "2.0", "--card", "h200")
    counts = [{stage["stage"]: stage["to_do"] for stage in found["stages"]} for found in (here, there)]
    assert counts[0]["encode-latents"] == counts[1]["encode-latents"] > 9
