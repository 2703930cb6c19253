"""The renderings of a validation: each prompt alone, and with the LoRAs of others that the recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ltxcore.models.finding import find_adapter
from ltxcore.models.hashes import remembered_hashes
from ltxcore.stages.context import Context
from ltxcore.validation.plan import RenderPlan, is_distilled


@dataclass(frozen=True)
class ValidationRun:
    """One way in which every prompt is rendered."""

    label: str
    """Empty where nothing sets it apart."""
    adapters: tuple[tuple[Path, float], ...] = ()
    """LoRA files beside the trained one, and their strengths."""

    def name(self, prompt: str) -> str:
        """The name of the rendering of a prompt of that short name."""
        return f"{prompt}-{self.label}" if self.label else prompt

    def plan(self, plan: RenderPlan) -> RenderPlan:
        """How it is sampled: with a distilled LoRA without guidance, in that LoRA's eight steps."""
        distilled = any(is_distilled(path) for path, _ in self.adapters)
        return plan.distilled() if distilled else plan


def validation_runs(ctx: Context) -> list[ValidationRun]:
    """The runs of a recipe, the plain one first.

    Raises:
        ModelError: an adapter is not on this machine.
    """
    return [
        ValidationRun(label, tuple((find_adapter(a.path, fetch=False), a.strength) for a in adapters))
        for label, adapters in ctx.recipe.validation.adapter_runs
    ]


def adapter_request(ctx: Context) -> dict[str, dict[str, str]]:
    """The content of each adapter, for a request; nothing where there is none."""
    files = {name: find_adapter(name, fetch=False) for name in ctx.recipe.validation.adapter_paths}
    hashes = remembered_hashes(files.values(), ctx.workspace.models)
    return {"adapters": {name: hashes[file] for name, file in files.items()}} if files else {}


def renderings(ctx: Context, prompts: Mapping[str, str]) -> dict[str, str]:
    """Name -> prompt of every rendering.

    Raises:
        ValueError: two have one name, e.g. the prompt `sea-canny` and `sea` with the adapter `canny`.
    """
    found: dict[str, str] = {}
    for label, _ in ctx.recipe.validation.adapter_runs:
        for name, prompt in prompts.items():
            if (told := ValidationRun(label).name(name)) in found:
                raise ValueError(f"two renderings would be called {told!r}; rename that prompt or adapter")
            found[told] = prompt
    return found
