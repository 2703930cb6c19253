"""Buckets that a dataset names: what `ltx2 buckets` prints can be pasted, and is what is used."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.config.bucket_list import Bucket, read_bucket
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.datasets import load_datasets
from ltxcore.config.errors import ConfigError
from tests.stages.conftest import Bench


def write_buckets(bench: Bench, buckets: list[str]) -> None:
    """Put buckets into the bench's dataset in place of its own rules."""
    file = bench.root / "datasets.yaml"
    entries = yaml.safe_load(file.read_text())
    entries[0]["buckets"] = buckets
    file.write_text(yaml.safe_dump(entries))


def placed(bench: Bench) -> dict[str, str]:
    snapshot, _ = bench.probe()
    return {sample.path: sample.bucket for sample in snapshot.samples}


def test_the_printed_line_pasted_into_the_dataset_gives_those_buckets(bench: Bench) -> None:
    bench.look()
    common = ["--workspace", str(bench.ctx.workspace.root), "--datasets", str(bench.root / "datasets.yaml")]
    done = CliRunner().invoke(app, ["buckets", *common, "--count", "2"])
    assert done.exit_code == 0, done.output
    line = re.search(r"^  (buckets: \[.*\])$", done.output, re.MULTILINE)
    assert line, done.output
    proposed: list[str] = yaml.safe_load(line[1])["buckets"]
    assert len(proposed) == 2
    write_buckets(bench, proposed)
    assert set(placed(bench).values()) <= {str(read_bucket(text)) for text in proposed}
    # Asked again, the command counts the waste of what is configured now.
    again = CliRunner().invoke(app, ["buckets", *common, "--count", "2"])
    shares = {
        row.split()[0]: row.partition("%")[0].split()[-1] for row in again.output.splitlines() if "%" in row
    }
    assert shares["as"] == shares["asked"]


def test_what_is_as_good_is_left_and_clips_that_are_not_taken_do_not_count(bench: Bench) -> None:
    for caption in bench.clips.glob("red-disc-right*.txt"):
        caption.unlink()
    snapshot, _ = bench.probe()
    common = ["--workspace", str(bench.ctx.workspace.root), "--datasets", str(bench.root / "datasets.yaml")]
    done = CliRunner().invoke(app, ["buckets", *common, "--max-tokens", "500"])
    assert done.exit_code == 0, done.output
    assert len(snapshot.samples) == 4
    assert "clips: 4 clips," in done.output
    assert "of the frames saved" in " ".join(done.output.split())
    line = re.search(r"^  (buckets: \[.*\])$", done.output, re.MULTILINE)
    assert line, "these clips are much longer than 17 frames"
    write_buckets(bench, yaml.safe_load(line[1])["buckets"])
    again = CliRunner().invoke(app, ["buckets", *common])
    assert "no other buckets are better" in " ".join(again.output.split())
    assert "write into" not in again.output


def test_a_clip_goes_to_the_bucket_that_keeps_most_of_it_whatever_the_order(bench: Bench) -> None:
    buckets = ["64x64x17", "96x64x17", "64x96x9", "128x64x9"]
    found = set()
    for order in itertools.islice(itertools.permutations(buckets), 0, 24, 7):
        write_buckets(bench, list(order))
        found.add(tuple(sorted(placed(bench).items())))
    assert len(found) == 1
    # 256x160 is 1.6 wide: 96x64 keeps 94 % of 17 frames.
    assert dict(found.pop())["red-disc-right.mp4"] == "96x64@17"


def test_a_larger_bucket_is_taken_where_two_keep_the_same(bench: Bench) -> None:
    write_buckets(bench, ["96x64x17", "192x128x17"])
    assert placed(bench)["red-disc-right.mp4"] == "192x128@17"


def test_a_clip_that_is_too_short_says_so_and_the_others_train(bench: Bench) -> None:
    write_buckets(bench, ["64x64x49"])
    snapshot, _ = bench.probe()
    reasons = {rejection.path: rejection.reason for rejection in snapshot.rejections}
    assert reasons["twin.mp4"] == (
        "is too short for every bucket of its dataset: it has 45 frames at 25 fps, and the shortest is "
        "64x64x49"
    )
    assert {sample.bucket for sample in snapshot.samples} == {"64x64@49"}


def test_the_latents_have_the_buckets_shape(bench: Bench) -> None:
    write_buckets(bench, ["96x64x9"])
    bench.look()
    bench.split()
    assert bench.encode()["video"] == 5
    assert {sample.frames.count for sample in bench.ctx.snapshot.samples} == {9}


def test_buckets_of_the_recipe_are_for_datasets_that_say_nothing(tmp_path: Path) -> None:
    for name in ("clips", "stills", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "datasets.yaml").write_text(
        "- {id: clips, dataset_type: video, instance_data_dir: clips}\n"
        "- {id: stills, dataset_type: image, instance_data_dir: stills}\n"
        "- {id: own, dataset_type: video, instance_data_dir: own, resolution: 64}\n"
        "- {id: text, dataset_type: text_embeds}\n"
    )
    shared = DataDefaults(buckets=("768x512x49", "512x512"))
    found = load_datasets(tmp_path / "datasets.yaml", shared)
    assert {d.id: d.buckets for d in (*found.video, *found.image)} == {
        "clips": ("768x512x49",),
        "stills": ("512x512x1",),
        "own": (),
    }


def test_an_illegal_bucket_is_refused_with_its_line_and_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "datasets.yaml").write_text(
        "- id: clips\n  dataset_type: video\n  instance_data_dir: clips\n"
        "  buckets: [768x512x49, 700x512x50]\n"
        "- {id: text, dataset_type: text_embeds}\n"
    )
    with pytest.raises(
        ConfigError, match=r"datasets\.yaml:4: clips: 0\.buckets: 700x512x50 .* nearest is 704x512x49"
    ):
        load_datasets(tmp_path / "datasets.yaml")


@pytest.mark.parametrize(
    ("text", "bucket"),
    [("768x512x49", Bucket(768, 512, 49)), ("32X32@9", Bucket(32, 32, 9)), (" 64x32 ", Bucket(64, 32, 1))],
)
def test_ways_to_write_a_bucket(text: str, bucket: Bucket) -> None:
    assert read_bucket(text) == bucket
    assert read_bucket(bucket.written) == read_bucket(str(bucket)) == bucket
