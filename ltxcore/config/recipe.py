"""The recipe: what to train, how, within which memory, and what to render. The defaults are the tiny job.

Names are the seed's own keys, grouped. A recipe file says only what differs from the defaults.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ltxcore.config.base import Strict, parse, read_document
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.encode_settings import EncodeSettings
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.memory_settings import MemorySettings
from ltxcore.config.model_settings import ModelSettings
from ltxcore.config.simpletuner_training import is_flat, translate_config
from ltxcore.config.tracking_settings import TrackingSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.config.validation_settings import ValidationSettings


class Recipe(Strict):
    """Everything about a training but its data; `data` only says what datasets may leave out."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    encode: EncodeSettings = Field(default_factory=EncodeSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)
    data: DataDefaults = Field(default_factory=DataDefaults)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file, or the seed's config.json, whose keys are translated and logged.

    Raises:
        ConfigError: with file, line, key and what to write instead.
    """
    data, lines = read_document(path)
    if is_flat(data, Recipe.model_fields):
        translation = translate_config(data, path, lines)
        translation.check()
        translation.log()
        data, lines = translation.data, translation.places
    recipe: Recipe = parse(Recipe, {} if data is None else data, str(path), lines)
    return recipe
