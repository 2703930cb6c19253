"""From clips to latents and text features: what is computed, what is not computed again, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ltxcore import Job
from ltxcore.execution.execution import find_result
from ltxcore.pipeline.base.contract import LATENTS, MissingInput
from ltxcore.pipeline.data.keys import LatentSpaces
from ltxcore.stages.encode_latents.request import quarantined as encode_latents_quarantined
from ltxcore.stages.probe_media import trainable
from ltxcore.stages.probe_media.request import request as probe_media_request
from ltxcore.stages.probe_media.trainable import NothingToTrain
from ltxcore.store.latents import LatentStore
from tests.stages.conftest import Bench

KILLED_ENCODE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.stages.conftest import Bench
from ltxcore.config.recipe import Recipe

seen = 0
def die_in_the_middle():
    global seen
    seen += 1
    if seen == {after}:
        os.kill(os.getpid(), signal.SIGKILL)

recipe = Recipe.model_validate_json(Path({recipe!r}).read_text())
Bench(Path({bench!r}), recipe).encode(die_in_the_middle)
"""


def in_batches_of(bench: Bench, clips: int) -> Bench:
    encode = bench.recipe.encode.model_copy(update={"batch_clips": clips})
    return Bench(bench.root, bench.recipe.model_copy(update={"encode": encode}))


def contents(bench: Bench) -> dict[str, tuple[str, int, bytes]]:
    """Every committed sample: where it is and its bytes."""
    store = LatentStore(bench.ctx.store)
    return {key: (r.array, r.row, store.read(key).tobytes()) for key, r in store.index.items()}


def test_samples_reach_the_store_with_the_right_shapes(bench: Bench) -> None:
    snapshot, probed = bench.probe()
    assert (probed, len(snapshot.samples), len(snapshot.rejections)) == (5, 5, 0)
    assert {s.id for s in snapshot.samples} >= {"clips/twin.mp4", "clips/twin.mov"}
    assert bench.split() == 4
    assert bench.encode() == {"video": 5, "audio": 4}
    ctx = bench.ctx
    spaces, store = LatentSpaces.of(ctx.source, ctx.recipe), LatentStore(ctx.store)
    for sample in ctx.snapshot.samples:
        width, height = sample.geometry.target
        video = store.read(spaces.video_key(sample).value)
        # 17 frames -> 3 latent frames; the tiny VAE has 16 channels.
        assert video.shape == (16, 3, height // 32, width // 32)
        if sample.audio is not None:
            # 17 / 25 s at 25 latents a second; 2 channels x 4 mel rows.
            assert store.read(spaces.audio_key(sample, sample.audio).value).shape == (17, 8)


def test_kill_9_in_the_middle_and_a_rerun_give_the_store_of_an_undisturbed_run(
    bench: Bench, tmp_path: Path
) -> None:
    bench = in_batches_of(bench, 1)
    bench.probe()
    bench.split()
    undisturbed = Bench(tmp_path / "other", bench.recipe)
    shutil.copytree(bench.root, undisturbed.root, ignore=shutil.ignore_patterns("other"))
    undisturbed.encode()

    recipe = tmp_path / "recipe.json"
    recipe.write_text(bench.recipe.model_dump_json())
    script = KILLED_ENCODE.format(
        root=str(Path(__file__).parents[2]), recipe=str(recipe), bench=str(bench.root), after=3
    )
    died = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    committed = contents(bench)
    assert {array.split("/")[1] for array, _, _ in committed.values()} == {"video", "audio"}
    assert 0 < len(committed) < 9

    done = bench.encode()
    assert done["video"] + done["audio"] == 9 - len(committed), "nothing committed may be encoded again"
    assert contents(bench) == contents(undisturbed)


def test_one_clip_replaced_is_one_encode_and_no_text(bench: Bench) -> None:
    bench.prepare()
    shutil.copy2(bench.clips / "red-disc-right.mp4", bench.clips / "twin.mp4")
    _, probed = bench.probe()
    assert probed == 1
    # The content is another sample's, so that even this one encode is spared.
    assert (bench.split(), bench.encode(), bench.embed()) == (0, {"video": 0, "audio": 0}, 0)
    with (bench.clips / "twin.mp4").open("ab") as file:
        file.write(b"\0" * 64)
    assert bench.probe()[1] == 1
    assert (bench.split(), bench.encode(), bench.embed()) == (1, {"video": 1, "audio": 1}, 0)


def test_a_caption_edited_is_one_text_row_and_no_encode(bench: Bench) -> None:
    bench.prepare()
    (bench.clips / "twin.mp4.txt").write_text("something else entirely")
    bench.probe()
    assert (bench.split(), bench.encode(), bench.embed()) == (0, {"video": 0, "audio": 0}, 1)


def test_a_clip_renamed_is_no_encode(bench: Bench) -> None:
    bench.prepare()
    (bench.clips / "blue-box-up.mp4").rename(bench.clips / "renamed.mp4")
    (bench.clips / "blue-box-up.txt").rename(bench.clips / "renamed.txt")
    snapshot, _ = bench.probe()
    assert "clips/renamed.mp4" in {s.id for s in snapshot.samples}
    assert (bench.split(), bench.encode(), bench.embed()) == (0, {"video": 0, "audio": 0}, 0)


def test_another_frame_rate_encodes_all_and_embeds_nothing(bench: Bench) -> None:
    bench.prepare()
    file = bench.root / "datasets.yaml"
    file.write_text(file.read_text().replace("num_frames: 17", "num_frames: 17, frame_rate: 24"))
    bench.probe()
    assert (bench.split(), bench.encode(), bench.embed()) == (4, {"video": 5, "audio": 4}, 0)


def test_deleted_latents_are_encoded_again_although_the_index_names_them(bench: Bench) -> None:
    bench.prepare()
    chunk = min((bench.root / "workspace/store/latents/video").rglob("c.*"))
    shutil.rmtree(chunk.parent)
    lost = bench.encode()
    assert lost["video"] > 0
    assert lost["audio"] == 0
    assert bench.encode() == {"video": 0, "audio": 0}


def test_a_clip_that_cannot_be_decoded_is_quarantined_and_stops_no_other(
    bench: Bench, undecodable: Callable[[str], None]
) -> None:
    bench.probe()
    bench.split()
    undecodable("blue-box-up.mp4")
    assert bench.encode() == {"video": 4, "audio": 4}
    errors = encode_latents_quarantined(bench.ctx, LatentStore(bench.ctx.store))
    assert list(errors) == ["clips/blue-box-up.mp4"]
    assert "blue-box-up.mp4" in errors["clips/blue-box-up.mp4"]
    assert bench.encode() == {"video": 0, "audio": 0}, "a quarantined clip is not tried for ever"


def test_stages_say_what_they_miss_and_who_makes_it(bench: Bench) -> None:
    with pytest.raises(
        MissingInput, match=r"encode-latents needs a snapshot .* run the stage probe-media first"
    ):
        find_result(LATENTS, bench.ctx)
    bench.probe()
    with pytest.raises(MissingInput, match="the waveforms of 4 clips; run the stage split-audio first"):
        bench.encode()


def test_all_clips_rejected_is_a_clear_failure(bench: Bench) -> None:
    for caption in bench.clips.glob("*.txt"):
        caption.unlink()
    with pytest.raises(NothingToTrain, match=r"none of the 5 files .* can be used:\n.*has no caption"):
        bench.probe()


def test_many_rejected_clips_are_reported_by_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "MOST_NAMED", 2)
    for caption in bench.clips.glob("*.txt"):
        caption.unlink()
    (bench.clips / "red-disc-right.mp4").write_text("no video")
    with pytest.raises(NothingToTrain) as caught:
        bench.probe()
    assert str(caught.value).splitlines()[1:] == [
        "  4, such as clips/blue-box-up.mp4: has no caption: expected blue-box-up.txt or blue-box-up.mp4.txt "
        "beside it",
        "  1, such as clips/red-disc-right.mp4: is not a video that can be read: it seems to be text",
    ]


def test_an_empty_folder_is_a_clear_failure(bench: Bench) -> None:
    shutil.rmtree(bench.clips)
    bench.clips.mkdir()
    with pytest.raises(NothingToTrain, match="there are no clips in"):
        Job(bench.ctx.workspace.root, bench.root / "datasets.yaml", bench.recipe).run("probe-media")


def test_sound_that_was_asked_for_and_is_nowhere_is_an_error(bench: Bench) -> None:
    for clip in bench.clips.iterdir():
        if "silent" not in clip.name:
            clip.unlink()
    with pytest.raises(NothingToTrain, match="auto_split: false"):
        bench.probe()
    file = bench.root / "datasets.yaml"
    file.write_text(file.read_text().replace("  video:", "  audio: {auto_split: false}\n  video:"))
    snapshot, _ = bench.probe()
    assert [s.audio for s in snapshot.samples] == [None]


def test_the_snapshot_does_not_depend_on_where_the_data_is(bench: Bench, tmp_path: Path) -> None:
    moved = Bench(tmp_path / "moved", bench.recipe)
    shutil.copytree(bench.root, moved.root, ignore=shutil.ignore_patterns("moved", "workspace"))
    assert bench.probe()[0].id == moved.probe()[0].id


def test_an_untouched_dataset_costs_stats_only_and_a_touched_one_a_hash(bench: Bench) -> None:
    first, _ = bench.probe()
    request = probe_media_request(bench.ctx)
    assert probe_media_request(bench.ctx) == request
    os.utime(bench.clips / "twin.mp4", (1, 1))
    assert probe_media_request(bench.ctx) != request
    again, probed = bench.probe()
    assert (again.id, probed) == (first.id, 1)


def test_the_key_inputs_of_a_sample_are_kept_as_json(bench: Bench) -> None:
    bench.probe()
    bench.split()
    bench.encode()
    records = [record for _, record in LatentStore(bench.ctx.store).index.items()]
    video = next(r.inputs for r in records if r.inputs["kind"] == "video")
    assert json.loads(json.dumps(video)) == video
    assert {"media", "frames", "geometry", "vae", "dtype", "tiling", "version"} <= set(video)
