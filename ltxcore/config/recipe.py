"""The recipe: what to train, how, within which memory, and what to render. The defaults are the tiny job.

Keys have SimpleTuner's names, grouped in sections. A recipe file only contains what differs from the
defaults.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ltxcore.config.base import UNKNOWN, Strict, ending_in, parse, places_of, written
from ltxcore.config.batch_size import AUTO
from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.dataset_kinds import KINDS
from ltxcore.config.encode_settings import EncodeSettings
from ltxcore.config.errors import NEAREST, ConfigError, Problem
from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.config.hub_settings import HubSettings
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.memory_settings import MemorySettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.preservation_settings import PreservationSettings
from ltxcore.config.processes_settings import ProcessSettings
from ltxcore.config.promotion_settings import PromotionSettings
from ltxcore.config.recipe_document import merged, presets, read_recipe_document
from ltxcore.config.scheduled_sampling_settings import ScheduledSamplingSettings
from ltxcore.config.tracking_settings import TrackingSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.config.tread_settings import TreadSettings
from ltxcore.config.validation_settings import ValidationSettings

logger = logging.getLogger(__name__)


class Recipe(Strict):
    """Everything about a training except its datasets; `data` has defaults for keys that these leave out."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    encode: EncodeSettings = Field(default_factory=EncodeSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    conditioning: ConditioningSettings = Field(default_factory=ConditioningSettings)
    preservation: PreservationSettings = Field(default_factory=PreservationSettings)
    scheduled_sampling: ScheduledSamplingSettings = Field(default_factory=ScheduledSamplingSettings)
    tread: TreadSettings = Field(default_factory=TreadSettings)
    crepa: CrepaSettings = Field(default_factory=CrepaSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    processes: ProcessSettings = Field(default_factory=ProcessSettings)
    threads: PositiveInt | None = Field(
        None,
        description="Threads that each process of a stage computes with on a CPU. Default: one for models "
        "below 50 million parameters, half of the cores above; a resumed stage keeps its number.",
    )
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    hub: HubSettings = Field(default_factory=HubSettings)
    promotion: PromotionSettings | None = None
    data: DataDefaults = Field(default_factory=DataDefaults)

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a gate that there is not: headers of LoRA files and records of runs stay what they were."""
        data: dict[str, Any] = serialise(self)
        if self.promotion is None:
            data.pop("promotion", None)
        return data

    @model_validator(mode="after")
    def _judges_on_something(self) -> Recipe:
        if self.promotion is not None and not self.evaluation.holds_out:
            raise ValueError(
                "promotion compares LoRAs on held-out clips, and none are held out; write e.g. "
                "evaluation: {eval_share: 0.1}"
            )
        return self

    @model_validator(mode="after")
    def _one_way_for_gemma(self) -> Recipe:
        if not self.memory.ramtorch_text_encoder:
            return self
        for key in ("text_encoder_loading", "text_encoder_1_precision"):
            if (given := getattr(self.model, key)) not in ("auto", "no_change", "layer_by_layer"):
                raise ValueError(
                    f"memory.ramtorch_text_encoder reads Gemma layer by layer, but model.{key} is {given}; "
                    "keep one of them"
                )
        return self

    @model_validator(mode="after")
    def _auto_has_budgets(self) -> Recipe:
        open_keys = {
            "model.base_model_precision": self.model.base_model_precision,
            "training.train_batch_size": self.training.train_batch_size,
        }
        autos = [key for key, value in open_keys.items() if value == AUTO]
        missing = [key for key in ("vram_gib", "ram_gib") if getattr(self.memory, key) is None]
        if autos and missing:
            raise ValueError(
                f"{' and '.join(autos)}: auto needs {' and '.join(f'memory.{key}' for key in missing)}: what "
                "it chooses is part of what the training is, so it may not depend on the machine"
            )
        return self

    @model_validator(mode="after")
    def _adapter_fits_weights(self) -> Recipe:
        precision = self.model.base_model_precision
        if self.lora.lycoris is not None and precision.endswith("-bnb"):
            raise ValueError(
                f"lora.lora_type is lycoris, which peft cannot train over the packed weights of "
                f"model.base_model_precision {precision}; use int8-quanto, or lora_type standard"
            )
        return self

    @property
    def batches_a_step(self) -> int:
        """Batches of one optimizer step, over all processes."""
        return self.training.gradient_accumulation_steps * self.processes.count

    @model_validator(mode="after")
    def _shards_are_of_plain_weights(self) -> Recipe:
        if not self.processes.sharded:
            return self
        file = self.processes.accelerate_config
        if self.memory.forced not in ("auto", "resident"):
            raise ValueError(
                f"{file} shards the transformer among the processes, which memory.strategy "
                f"{self.memory.forced} does not go with; leave the memory keys out, or use DDP"
            )
        if self.training.train_batch_size == AUTO:
            raise ValueError(
                f"training.train_batch_size: auto does not know the shards of {file}; write a number"
            )
        if self.training.optimizer != "adamw":
            raise ValueError(
                f"{file} shards the adapter among the processes, and training.optimizer "
                f"{self.training.optimizer} changes whole tensors; write adamw, or use DDP"
            )
        if self.model.base_model_precision != "no_change":
            raise ValueError(
                f"{file} shards the transformer among the processes, which cannot shard weights of "
                f"model.base_model_precision {self.model.base_model_precision}; write no_change, or use DDP"
            )
        return self

    @property
    def given(self) -> ConditioningSettings:
        """What is given of each sample, including SimpleTuner's first-frame key.

        Raises:
            ValueError: the key contradicts `conditioning`.
        """
        return self.conditioning.with_first_frame(self.training.ltx2_first_frame_conditioning_probability)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes on keys that are not followed literally."""
        message = "memory.ramtorch and memory.enable_group_offload are both on: ramtorch is taken"
        return (message,) if self.memory.group_offload_replaced else ()

    @model_validator(mode="after")
    def _conditions_agree(self) -> Recipe:
        _ = self.given
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file, with what it `extends`, or the seed's config.json, whose keys are translated.

    Raises:
        ConfigError: with file, line, key and what to write instead.
    """
    data, lines, extended = read_recipe_document(path, Recipe.model_fields)
    for file in extended:
        # Parsed separately, so that its faults have its own name and lines.
        load_recipe(file)
    try:
        recipe: Recipe = parse(Recipe, {} if data is None else data, str(path), lines)
    except ConfigError as error:
        raise ConfigError(error.source, [_where_it_belongs(problem) for problem in error.problems]) from None
    for remark in recipe.remarks:
        logger.warning("%s: %s", path, remark)
    return recipe


def load_presets(*names: str) -> Recipe:
    """What presets say together, as a recipe that extends them in this order.

    Raises:
        ConfigError: they contradict each other.
    """
    known = presets()
    data = merged((known[name] for name in names), Recipe.model_fields)
    recipe: Recipe = parse(Recipe, data, ", ".join(names))
    return recipe


def _where_it_belongs(problem: Problem) -> Problem:
    """Advice for a key that belongs to another section, or to a dataset."""
    key = problem.key.rpartition(".")[2]
    if not problem.message.startswith(UNKNOWN):
        return problem
    places = [place for place in places_of(Recipe, key) if place != problem.key]
    if places:
        message = f"belongs to {' or '.join(places[:NEAREST])}; write {written(places[0])}"
        return replace(problem, message=message)
    if any(key in kind.model_fields for kind in KINDS.values()):
        return replace(problem, message="is a key of a dataset; write it in the dataset file")
    ends = ending_in(Recipe, key)
    if ends and "did you mean" not in problem.message:
        return replace(problem, message=f"{UNKNOWN}did you mean `{'` or `'.join(ends[:NEAREST])}`?")
    return problem
