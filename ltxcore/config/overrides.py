"""A short form over a recipe: what people change most from one run to the next."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field, PositiveInt

from ltxcore.config.base import Strict, parse
from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.recipe import Recipe

SOURCE: Final = "the overrides"


class Overrides(Strict):
    """Values that take the place of the recipe's, for one run. Empty: the recipe's own."""

    max_train_steps: PositiveInt | None = Field(None, description="Steps of the training.")
    lora_rank: PositiveInt | None = Field(None, description="Rank of the LoRA.")
    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate.")
    validation_prompts: dict[str, str] | None = Field(
        None, description="Short name -> prompt of what is rendered."
    )
    trigger: str | None = Field(None, description="The words that call what is trained.")
    vram_gib: float | None = Field(None, gt=0, description="GPU memory that a stage may use, in GiB.")
    ram_gib: float | None = Field(None, gt=0, description="Host memory that a stage may use, in GiB.")

    def put_over(self, recipe: Recipe) -> Recipe:
        """The recipe with these values in it.

        Raises:
            ConfigError: a value that the recipe does not take, or that would change nothing; with the key and
                what to write instead.
        """
        moot = self._moot(recipe)
        if moot:
            raise ConfigError(SOURCE, moot)
        data = recipe.model_dump()
        for place, value in self._places():
            if value is not None:
                section, key = place.split(".")
                data[section][key] = value
        if self.max_train_steps is not None:
            # One of the two decides.
            data["training"]["num_train_epochs"] = 0
        changed: Recipe = recipe if self == Overrides() else parse(Recipe, data, SOURCE, {})
        return changed

    def _moot(self, recipe: Recipe) -> list[Problem]:
        """Values that nothing would read under this recipe."""
        found = []
        lycoris = recipe.lora.lycoris
        if self.lora_rank is not None and lycoris is not None:
            now = "is not used (full_matrix)" if lycoris.full_matrix else f"is {lycoris.linear_dim}"
            message = (
                f"is {self.lora_rank}, but the recipe's lora_type is lycoris, whose size is "
                f"lora.lycoris_config.linear_dim, which {now}; leave lora_rank out and write linear_dim in "
                "the recipe file, or make it lora_type standard there"
            )
            found.append(Problem("lora_rank", message))
        if self.validation_prompts is not None and recipe.validation.validation_disable:
            message = (
                "are given, but the recipe's validation.validation_disable is true, so nothing is rendered; "
                "leave them out, or remove validation_disable from the recipe file"
            )
            found.append(Problem("validation_prompts", message))
        return found

    def _places(self) -> list[tuple[str, Any]]:
        return [
            ("training.max_train_steps", self.max_train_steps),
            ("lora.lora_rank", self.lora_rank),
            ("training.learning_rate", self.learning_rate),
            ("validation.validation_prompts", self.validation_prompts),
            ("lora.trigger", self.trigger),
            ("memory.vram_gib", self.vram_gib),
            ("memory.ram_gib", self.ram_gib),
        ]
