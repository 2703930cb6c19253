"""The stage contract, in one place: name, code, inputs, outputs, budget, pool.

A stage reads only what earlier stages committed in the workspace. `version` is raised by hand when a
change to its code changes what it writes; it is part of every key, so old results are not mistaken for new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ltxcore.config.errors import nearest
from ltxcore.config.recipe import Recipe

Pool = Literal["cpu", "gpu"]


def _always(recipe: Recipe) -> bool:
    return True


def _with_crepa(recipe: Recipe) -> bool:
    return recipe.crepa.crepa_enabled


def _with_promotion(recipe: Recipe) -> bool:
    return recipe.promotion is not None


@dataclass(frozen=True)
class Stage:
    """What the orchestrator and other stages know about a stage."""

    name: str
    title: str
    version: str
    pool: Pool
    inputs: tuple[str, ...]
    """Stages whose committed outputs it reads."""
    models: tuple[str, ...]
    """Parts of the model that it loads. No two stages' processes hold the same big one by accident."""
    outputs: tuple[str, ...]
    ram_gib: float
    """Its budget of host memory beside the weights it loads, unless the recipe says otherwise."""
    writes: str = ""
    """The part of the store that it writes, one process at a time. Empty: files of its own folder alone."""
    inputs_if_asked: tuple[str, ...] = ()
    """Stages whose outputs it reads where the recipe asks for them; their keys are in its request then."""
    package: str = ""
    """With its `request`, `work` and, if it loads models, `memory`. Empty: the runner is given its code."""
    asked: Callable[[Recipe], bool] = _always
    """Whether the pipeline of a recipe has it."""


PROBE = Stage(
    name="probe-media",
    title="look at every file, choose buckets",
    package="ltxcore.stages.probe_media",
    version="7",
    pool="cpu",
    inputs=(),
    models=(),
    outputs=("snapshot",),
    ram_gib=2,
    writes="media",
)
AUDIO = Stage(
    name="split-audio",
    title="cut the clips' sound at their frames",
    package="ltxcore.stages.split_audio",
    version="2",
    pool="cpu",
    inputs=("probe-media",),
    models=(),
    outputs=("waveforms",),
    ram_gib=4,
    writes="audio",
)
LATENTS = Stage(
    name="encode-latents",
    title="frames and sound to latents",
    package="ltxcore.stages.encode_latents",
    version="3",
    pool="gpu",
    inputs=("probe-media", "split-audio"),
    models=("vae", "audio_vae"),
    outputs=("latents",),
    ram_gib=8,
    writes="latents",
)
TEXT = Stage(
    name="embed-text",
    title="captions to text features",
    package="ltxcore.stages.embed_text",
    version="1",
    pool="gpu",
    inputs=("probe-media",),
    models=("tokenizer", "text_encoder", "text_projection"),
    outputs=("text features",),
    ram_gib=8,
    writes="text",
)
FRAMES = Stage(
    name="embed-frames",
    title="frames to the teacher's features",
    package="ltxcore.stages.embed_frames",
    version="2",
    pool="gpu",
    inputs=("probe-media",),
    models=("teacher",),
    outputs=("teacher features",),
    ram_gib=8,
    writes="latents",
    asked=_with_crepa,
)
TRAIN = Stage(
    name="train-lora",
    title="train the adapter",
    package="ltxcore.stages.train_lora",
    version="4",
    pool="gpu",
    inputs=("probe-media", "encode-latents", "embed-text"),
    models=("transformer", "connectors"),
    outputs=("LoRA", "metrics"),
    ram_gib=8,
    inputs_if_asked=("embed-frames",),
)
RENDER = Stage(
    name="render-validation",
    title="render base and LoRA side by side",
    package="ltxcore.stages.render_validation",
    version="4",
    pool="gpu",
    inputs=("probe-media", "embed-text", "train-lora"),
    models=("transformer", "connectors", "vae", "audio_vae", "vocoder"),
    outputs=("videos", "gallery"),
    ram_gib=8,
)
JUDGE = Stage(
    name="judge-lora",
    title="compare the LoRA with the champion",
    package="ltxcore.stages.judge_lora",
    version="1",
    pool="gpu",
    inputs=("probe-media", "encode-latents", "embed-text", "train-lora"),
    models=("transformer", "connectors"),
    outputs=("verdict", "gate page"),
    ram_gib=8,
    asked=_with_promotion,
)

STAGES: tuple[Stage, ...] = (PROBE, AUDIO, LATENTS, TEXT, FRAMES, TRAIN, RENDER, JUDGE)
BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}


def asked_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe's pipeline has."""
    return tuple(stage for stage in STAGES if stage.asked(recipe))


def versions(stage: Stage) -> dict[str, str]:
    """The versions that a stage's result depends on: its own, and those of all stages before it.

    probe-media is left out: its result is part of the requests, as the id of the data.
    """
    found = {stage.name: stage.version}
    for name in stage.inputs:
        if BY_NAME[name].inputs:
            found |= versions(BY_NAME[name])
    return found


class UnknownStage(LookupError):
    """A name that is no stage's."""


class MissingInput(RuntimeError):
    """A stage whose inputs are not committed; says which, and which stage makes them."""

    def __init__(self, stage: Stage, what: str, maker: Stage) -> None:
        super().__init__(f"{stage.name} needs {what}; run the stage {maker.name} first")
        self.stage, self.maker = stage, maker


def stage_named(name: str) -> Stage:
    """The stage of a name.

    Raises:
        UnknownStage: with the nearest known name.
    """
    try:
        return BY_NAME[name]
    except KeyError:
        raise UnknownStage(f"there is no stage {name!r}; {nearest(name, BY_NAME)}") from None
