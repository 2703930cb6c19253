"""Which clips are held out, how the loss on them is measured, and when that ends the training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from ltxcore.config.base import Strict

Sigma = Annotated[float, Field(gt=0, le=1)]


class EvaluationSettings(Strict):
    """Clips that are held out, and what the loss on them decides."""

    eval_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "The share of clips that are held out. Each clip's content decides, so adding a clip "
            "changes no other. Regularisation data is not held out."
        ),
    )
    eval_datasets: tuple[str, ...] = Field((), description="Ids of datasets that are held out as a whole.")
    eval_step_interval: PositiveInt = Field(
        100, description="Steps between evaluations; one more is made before the first step, of the base."
    )
    eval_sigmas: tuple[Sigma, ...] = Field(
        (0.2, 0.4, 0.6, 0.8), min_length=1, description="The noise levels at which the loss is measured."
    )
    eval_seed: int = Field(
        42,
        ge=0,
        lt=2**63,
        description=(
            "Seed of the noise; separate from the training's seed, so that trainings can be compared."
        ),
    )
    early_stop_patience: int = Field(
        0,
        ge=0,
        description="Evaluations in a row without improvement after which the training ends; 0: never.",
    )
    early_stop_min_delta: float = Field(
        0.0, ge=0, description="The smallest decrease of the loss that counts as an improvement."
    )
    export: Literal["last", "best"] = Field(
        "last", description="Which step's LoRA is written: the last, or that of the lowest held-out loss."
    )

    @field_validator("eval_datasets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("eval_sigmas", "eval_datasets")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"names {', '.join(map(str, twice))} more than once; write each once")
        return values

    @model_validator(mode="after")
    def _decides_on_something(self) -> EvaluationSettings:
        asked = {"early_stop_patience": self.early_stop_patience > 0, "export: best": self.export == "best"}
        if not self.holds_out and any(asked.values()):
            keys = " and ".join(key for key, is_asked in asked.items() if is_asked)
            raise ValueError(
                f"{keys} go by the loss on held-out clips, and none are held out; write e.g. eval_share: 0.1 "
                "or eval_datasets: [an-id]"
            )
        return self

    @property
    def holds_out(self) -> bool:
        """Whether any clip is kept from training."""
        return self.eval_share > 0 or bool(self.eval_datasets)
