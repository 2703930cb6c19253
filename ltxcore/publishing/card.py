"""The model card of a published LoRA: what it is, how it is loaded, what it draws; nothing of the data."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from ltxcore.pages import environment


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
    """The facts about a LoRA for its model card."""

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
    licence: tuple[str, str] | None = None
    """Of the base, as the hub names it, and where it can be read."""

    @property
    def diffusers_reads_it(self) -> bool:
        """Whether `load_lora_weights` knows this kind of adapter."""
        return self.kind == "lora"


def model_card(facts: CardFacts, repo: str) -> str:
    """README.md: metadata for the hub, then text for people. Equal facts give equal cards."""
    from huggingface_hub import ModelCard, ModelCardData

    widget = [
        {"text": sample.prompt, "output": {"url": quote(sample.lora)}}
        for sample in facts.samples
        if sample.prompt
    ]
    metadata = ModelCardData(
        base_model=facts.base_model,
        library_name="diffusers",
        license=None if facts.licence is None else "other",
        license_name=None if facts.licence is None else facts.licence[0],
        license_link=None if facts.licence is None else facts.licence[1],
        pipeline_tag="text-to-video" if facts.makes_video else "text-to-audio",
        tags=_tags(facts),
        instance_prompt=facts.trigger or None,
        widget=widget or None,
    )
    made = {"video": facts.makes_video, "sound": facts.makes_sound}
    template = environment.markdown(__package__).get_template("model_card.md")
    return str(
        ModelCard(
            template.render(
                metadata=metadata.to_yaml(),
                facts=facts,
                repo=repo,
                made=" and ".join(part for part, is_made in made.items() if is_made),
                hub_shows_samples=bool(widget),
            )
        )
    )


def _tags(facts: CardFacts) -> list[str]:
    tags = ["lora", *([facts.kind] if facts.kind != "lora" else []), "ltx-2", "ltx-video"]
    tags += ["text-to-video"] if facts.makes_video else ["text-to-audio"]
    return [*tags, *(["audio"] if facts.makes_sound else [])]
