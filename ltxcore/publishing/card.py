"""The model card of a published LoRA: what it is, how it is loaded, what it draws; nothing of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Final
from urllib.parse import quote

# Below the metadata the hub shows the widget's samples where this stands.
SAMPLES_HERE: Final = "<Gallery />"


@dataclass(frozen=True)
class CardSample:
    """A prompt, and its renderings in the repository."""

    name: str
    prompt: str
    """Empty: rendered without one."""
    lora: str
    base: str


@dataclass(frozen=True)
class CardFacts:
    """What is told of a LoRA."""

    base_model: str | None
    """On the hub; None: a model that is not there."""
    kind: str
    """lora, lokr or loha."""
    size: str
    """Rank, or algorithm and dimension."""
    steps: int
    trained_steps: int
    """More than `steps` where an earlier step's LoRA was the best."""
    learning_rate: float
    trigger: str
    makes_video: bool
    makes_sound: bool
    diffusers_file: str
    comfyui_file: str
    averaged_files: tuple[str, ...]
    """The same of the averaged weights."""
    held_out: tuple[float, float] | None
    """Loss of the base and of the LoRA on clips that were not trained on."""
    samples: tuple[CardSample, ...]
    contact_sheet: str | None

    @property
    def diffusers_reads_it(self) -> bool:
        """Whether `load_lora_weights` knows this kind of adapter."""
        return self.kind == "lora"


def model_card(facts: CardFacts, repo: str) -> str:
    """README.md: metadata for the hub, then text for people. Equal facts give equal cards."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        base_model=facts.base_model,
        library_name="diffusers",
        pipeline_tag="text-to-video" if facts.makes_video else "text-to-audio",
        tags=_tags(facts),
        instance_prompt=facts.trigger or None,
        widget=[
            {"text": sample.prompt, "output": {"url": quote(sample.lora)}}
            for sample in facts.samples
            if sample.prompt
        ]
        or None,
    )
    body = "\n\n".join(_sections(facts, repo))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _tags(facts: CardFacts) -> list[str]:
    tags = ["lora", *([facts.kind] if facts.kind != "lora" else []), "ltx-2", "ltx-video"]
    tags += ["text-to-video"] if facts.makes_video else ["text-to-audio"]
    return [*tags, *(["audio"] if facts.makes_sound else [])]


def _sections(facts: CardFacts, repo: str) -> Iterator[str]:
    yield f"# {repo.split('/')[-1]}"
    base = (
        f"[{facts.base_model}](https://huggingface.co/{facts.base_model})" if facts.base_model else "an LTX-2"
    )
    made = " and ".join(
        part for part, is_made in (("video", facts.makes_video), ("sound", facts.makes_sound)) if is_made
    )
    yield f"An adapter for {base}, trained on {made} with ltx2-flows."
    if facts.trigger:
        yield f"Write **{_plain(facts.trigger)}** in the prompt to call what it was trained on."
    if any(sample.prompt for sample in facts.samples):
        yield SAMPLES_HERE
    yield "## How it was trained\n\n" + "\n".join(
        ["| | |", "|---|---|", *(f"| {label} | {value} |" for label, value in _rows(facts))]
    )
    yield from _loading(facts, repo)
    if facts.samples:
        yield from _samples(facts)


def _rows(facts: CardFacts) -> Iterator[tuple[str, str]]:
    yield ("Rank" if facts.kind == "lora" else "Size"), facts.size
    yield (
        "Steps",
        str(facts.steps) + (f" of {facts.trained_steps}" if facts.steps < facts.trained_steps else ""),
    )
    yield "Learning rate", f"{facts.learning_rate:g}"
    if facts.held_out is not None:
        base, lora = facts.held_out
        yield "Loss on held-out clips", f"{lora:.4f} (the base: {base:.4f})"


def _loading(facts: CardFacts, repo: str) -> Iterator[str]:
    yield "## How to load it"
    if facts.diffusers_reads_it:
        yield (
            "In diffusers:\n\n```python\nimport torch\nfrom diffusers import LTX2Pipeline\n\n"
            f'pipe = LTX2Pipeline.from_pretrained("{facts.base_model or "path/to/the/base"}", '
            "torch_dtype=torch.bfloat16)\n"
            f'pipe.load_lora_weights("{repo}", weight_name="{facts.diffusers_file}")\n```'
        )
    yield (
        f"In ComfyUI: put [{facts.comfyui_file}]({quote(facts.comfyui_file)}) into `models/loras` and load "
        "it with the node LoraLoaderModelOnly, at strength 1."
    )
    if facts.averaged_files:
        names = " and ".join(f"`{name}`" for name in facts.averaged_files)
        yield f"{names} hold the moving average of the weights, and are loaded likewise."


def _samples(facts: CardFacts) -> Iterator[str]:
    yield "## Samples"
    if facts.contact_sheet is not None:
        yield f"![Frames without and with the adapter]({quote(facts.contact_sheet)})"
    for sample in facts.samples:
        told = f"> {_plain(sample.prompt)}" if sample.prompt else "Without a prompt."
        links = f"[with the adapter]({quote(sample.lora)}), [the base alone]({quote(sample.base)})"
        yield f"**{_plain(sample.name)}**: {links}\n\n{told}"


def _plain(text: str) -> str:
    """A text of the user's as one line in which nothing is a tag."""
    return escape(" ".join(text.split()), quote=False)
