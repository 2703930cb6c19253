"""Image sets, sound alone, linked sound, mixtures: from files to a training that moves the right modules."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ltxcore.config.datasets import load_datasets
from ltxcore.jobs.explain.explain import explain_clip
from ltxcore.pipeline.base.contract import AUDIO, TRAIN
from ltxcore.pipeline.base.stamp import request_fingerprint
from ltxcore.stages.probe_media.trainable import NothingToTrain
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.stored_samples import StoredSamples
from ltxcore.stages.train_lora.training import Training
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.waveforms import WaveformStore
from ltxcore.training.checkpoints import latest
from ltxcore.training.metrics import read_metrics
from tests.shared import forget_training
from tests.stages.conftest import Bench, work_of
from tests.unit.media.files import caption, picture, tone

AUDIO_ONLY_MODULES = 24


def write_sets(bench: Bench, *sets: dict[str, Any]) -> None:
    text = {"id": "text", "dataset_type": "text_embeds"}
    (bench.root / "datasets.yaml").write_text(yaml.safe_dump([*sets, text]))


def video_set(**more: Any) -> dict[str, Any]:
    return {
        "id": "clips", "dataset_type": "video", "instance_data_dir": "clips", "resolution": 64,
        "resolution_type": "pixel", "video": {"num_frames": 17}, **more,
    }  # fmt: skip


def image_set(**more: Any) -> dict[str, Any]:
    return {
        "id": "stills", "dataset_type": "image", "instance_data_dir": "stills", "resolution": 64,
        "resolution_type": "pixel", **more,
    }  # fmt: skip


def audio_set(**more: Any) -> dict[str, Any]:
    return {"id": "sounds", "dataset_type": "audio", "instance_data_dir": "sounds", **more}


def make_stills(bench: Bench) -> None:
    folder = bench.root / "stills"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "c.webp")):
        caption(picture(folder / name, seed=number))


def make_sounds(bench: Bench, **lengths_s: float) -> Path:
    folder = bench.root / "sounds"
    folder.mkdir()
    for number, (stem, seconds) in enumerate(lengths_s.items()):
        ending = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")[number % 6]
        caption(tone(folder / f"{stem}{ending}", seconds, 300 + 60 * number, rate=48000))
    return folder


def train(bench: Bench, steps: int = 3) -> tuple[set[str], Path]:
    """Train, and name the modules whose LoRA got a gradient."""
    forget_training()
    training = bench.recipe.training.model_copy(update={"max_train_steps": steps, "lr_warmup_steps": 0})
    bench = Bench(bench.root, bench.recipe.model_copy(update={"training": training}))
    ctx = bench.ctx
    request = train_lora_request(ctx)
    directory = ctx.workspace.stages / "train-lora" / request_fingerprint(TRAIN, request)[:16]
    run = Training(ctx, directory, request, "cpu")
    run.plan()
    run.run(lambda metrics: None, lambda: False)
    end = latest(directory)
    assert end is not None
    moved = {
        name.split(".lora_")[0] for name, tensor in end.lora.items() if "lora_B" in name and tensor.any()
    }
    return moved, directory


def by_name(snapshot: Snapshot) -> dict[str, Any]:
    return {sample.path: sample for sample in snapshot.samples}


def test_an_image_set_trains_the_pictures_attentions(bench: Bench) -> None:
    make_stills(bench)
    write_sets(bench, image_set())
    snapshot, _ = bench.probe()
    assert [(s.kind, s.bucket, s.audio) for s in snapshot.samples] == [("image", "96x64@1", None)] * 3
    bench.split()
    assert bench.encode() == {"video": 3, "audio": 0}
    bench.embed()
    still = StoredSamples(bench.ctx).load("stills/a.png", 0)
    assert (tuple(still.video.shape), still.audio) == ((16, 1, 2, 3), None)
    moved, _ = train(bench)
    assert len(moved) == 16
    assert not any("audio" in name for name in moved)


def test_sound_alone_trains_the_sounds_own_modules(bench: Bench) -> None:
    make_sounds(bench, long=3.5, two=2.3, brief=0.68, other=3.1, far=7.0, end=6.2)
    write_sets(bench, audio_set())
    assert load_datasets(bench.root / "datasets.yaml").audio_only
    snapshot, _ = bench.probe()
    lengths = {s.path.split(".")[0]: s.audio.duration_s for s in snapshot.samples if s.audio}
    assert lengths == pytest.approx(
        {"long": 3, "two": 2.3, "brief": 0.68, "other": 3, "far": 6, "end": 6}, abs=0.06
    )
    assert {s.kind for s in snapshot.samples} == {"audio"}
    assert snapshot.buckets().keys() >= {"audio@3s", "audio@6s", "audio@2.3s"}
    assert bench.split() == 6
    assert bench.encode() == {"video": 0, "audio": 6}
    bench.embed()
    source = StoredSamples(bench.ctx)
    assert all(entry.has_audio and not entry.has_video for entry in source.entries())
    three = source.load(next(s.id for s in snapshot.samples if s.path.startswith("long")), 0)
    # 3 s x 25 fps = 75 frames -> 73 = 8n+1 -> 10 latent frames of 2x2.
    assert (tuple(three.video.shape), three.video.any().item()) == ((16, 10, 2, 2), False)
    assert three.audio is not None
    assert (three.audio.shape, three.audio_valid, three.has_video) == ((75, 8), 75, False)
    moved, directory = train(bench, steps=4)
    assert len(moved) == AUDIO_ONLY_MODULES
    assert all("audio" in name and "to_video" not in name for name in moved)
    assert all(
        m.video_loss is None and m.audio_loss == m.loss for m in read_metrics(directory / "metrics.jsonl")
    )


def test_sound_of_a_linked_set_replaces_the_clips_own(bench: Bench) -> None:
    sounds = make_sounds(bench, **{"blue-box-up": 5.0, "orange-disc-silent": 0.4, "nobody": 1.0})
    (sounds / "sub").mkdir()
    shutil.move(sounds / "blue-box-up.wav", sounds / "sub" / "blue-box-up.wav")
    write_sets(bench, video_set(s2v_datasets=["sounds"]), audio_set())
    snapshot, _ = bench.probe()
    samples = by_name(snapshot)
    assert {p: s.audio.sound.path for p, s in samples.items() if s.audio} == {
        "blue-box-up.mp4": "sub/blue-box-up.wav",
        "orange-disc-silent.mp4": "orange-disc-silent.flac",
    }
    assert samples["twin.mp4"].notes[-1] == "has no sound in sounds"
    assert [(r.id, r.reason) for r in snapshot.rejections if "mp3" in r.id] == [
        ("sounds/nobody.mp3", "no accepted clip has this file's name")
    ]
    # The short one is followed by padding: 0.4 of 0.68 s are heard.
    assert samples["orange-disc-silent.mp4"].audio.heard_s == (0.0, 0.4)
    assert bench.split() == 2
    assert bench.encode() == {"video": 5, "audio": 2}
    bench.embed()
    heard = explain_clip(bench.ctx, "sounds/sub/blue-box-up.wav")
    assert (heard.verdict, heard.reason, heard.work) == ("in", "belongs to clips/blue-box-up.mp4", [])
    assert {track.what for track in heard.tracks} == {"waveform", "audio latents"}
    assert explain_clip(bench.ctx, "sounds/nobody.mp3").verdict == "rejected"
    assert explain_clip(bench.ctx, "clips/blue-box-up.mp4").work == []
    padded = StoredSamples(bench.ctx).load("clips/orange-disc-silent.mp4", 0)
    assert padded.audio is not None
    assert (len(padded.audio), padded.audio_padding, padded.audio_valid) == (17, 0, 10)
    counts = work_of(AUDIO, bench.ctx).outcome().outcome.counts
    assert (counts["samples_with_sound"], counts["samples_padded"], counts["clips_without_sound"]) == (
        2,
        1,
        3,
    )
    moved, _ = train(bench)
    assert any("audio_ff" in name for name in moved)


def test_clips_pictures_and_sound_alone_train_together(bench: Bench) -> None:
    make_stills(bench)
    make_sounds(bench, hum=1.0)
    write_sets(bench, video_set(), image_set(), audio_set(audio={"audio_only": True}))
    bench.prepare()
    entries = StoredSamples(bench.ctx).entries()
    assert {(e.has_video, e.has_audio) for e in entries} == {(True, True), (True, False), (False, True)}
    moved, directory = train(bench, steps=9)
    assert len(moved) == 56
    lines = read_metrics(directory / "metrics.jsonl")
    assert any(line.video_loss is None for line in lines)
    assert all(torch.isfinite(torch.tensor(line.loss)) for line in lines)


def test_only_the_sound_of_clips_can_be_trained(bench: Bench) -> None:
    write_sets(bench, video_set(audio={"audio_only": True}))
    snapshot, _ = bench.probe()
    assert {s.kind for s in snapshot.samples} == {"audio"}
    assert [r.reason for r in snapshot.rejections] == ["has pictures but no sound"]


def test_one_file_can_be_a_clip_in_one_set_and_a_sound_in_another(bench: Bench) -> None:
    again = audio_set(instance_data_dir="clips", audio={"audio_only": True})
    write_sets(bench, video_set(), again)
    snapshot, probed = bench.probe()
    assert probed == 10
    kinds = {s.id: s.kind for s in snapshot.samples}
    assert (kinds["clips/twin.mov"], kinds["sounds/twin.mov"]) == ("video", "audio")
    assert bench.probe()[1] == 0


def test_a_clip_without_sound_is_silent_where_that_is_allowed(bench: Bench) -> None:
    write_sets(bench, video_set(audio={"allow_zero_audio": True}))
    snapshot, _ = bench.probe()
    silent = by_name(snapshot)["orange-disc-silent.mp4"]
    assert (silent.audio.layout, silent.notes) == ("silence", ("has no sound: trained as silent",))
    assert bench.split() == 5
    ctx = bench.ctx
    waves = WaveformStore(ctx.store)
    stilled = [waves.read(key) for key, r in waves.index.items() if r.inputs["media"] == "silence"]
    assert [(wave.shape, bool(wave.any())) for wave in stilled] == [((2, 10880), False)]
    assert bench.encode() == {"video": 5, "audio": 5}


@pytest.mark.parametrize(
    "sets",
    [
        [video_set(audio={"auto_split": True})],
        [video_set(s2v_datasets="sounds"), audio_set()],
    ],
)
def test_sound_asked_for_in_one_set_and_found_only_in_another_is_an_error(
    sets: list[dict[str, Any]], bench: Bench
) -> None:
    (bench.root / "loud").mkdir()
    make_sounds(bench, nobody=1.0)
    for clip in bench.clips.iterdir():
        if "silent" not in clip.name:
            clip.rename(bench.root / "loud" / clip.name)
    write_sets(bench, *sets, {**video_set(), "id": "loud", "instance_data_dir": "loud"})
    with pytest.raises(
        NothingToTrain, match="sound was asked for in `clips` and none of its 1 clips has any"
    ):
        bench.probe()


def test_where_all_is_silent_the_error_names_the_key_that_trains_it_as_it_is(bench: Bench) -> None:
    """What the words say to write is written, and works."""
    for clip in bench.clips.iterdir():
        if "silent" not in clip.name:
            clip.unlink()
    with pytest.raises(NothingToTrain, match="sound was asked for and none") as refusal:
        bench.probe()
    assert "`audio: {allow_zero_audio: true}`" in str(refusal.value)
    write_sets(bench, video_set(audio={"allow_zero_audio": True}))
    snapshot, _ = bench.probe()
    assert [sample.audio is not None for sample in snapshot.samples] == [True]
