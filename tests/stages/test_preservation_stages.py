"""Captions of the class go through the stages like all others, and come into a training that resumes."""

from __future__ import annotations

from ltxcore.config.preservation_settings import PreservationSettings
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.stored_samples import StoredFeatures, StoredSamples
from tests.stages.conftest import Bench
from tests.stages.test_training_stage import train


def test_class_captions_are_embedded_once_and_trained_with(bench: Bench) -> None:
    bench.prepare()
    plain = train_lora_request(bench.ctx)
    lora = bench.recipe.lora.model_copy(update={"trigger": "disc"})
    preservation = PreservationSettings(
        blank_prompt_probability=0.3, class_prompt_probability=0.6, class_prompt="ball"
    )
    held = Bench(bench.root, bench.recipe.model_copy(update={"lora": lora, "preservation": preservation}))
    assert "preservation" in train_lora_request(held.ctx).keys() - plain.keys()
    assert held.embed() > 0
    assert held.embed() == 0, "what is committed is not made again"

    source = StoredSamples(held.ctx)
    name = "clips/red-disc-right.mp4"
    own = next(sample for sample in held.ctx.snapshot.samples if sample.id == name).captions
    of_class = source.caption(name, len(own))
    assert "disc" in own[0]
    assert of_class == own[0].replace("disc", "ball")
    assert of_class in source.captions()
    features = source.load(name, len(own)).features
    assert (features.video == StoredFeatures(held.ctx).load(of_class).video).all()
    train(held)
