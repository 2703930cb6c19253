"""The renderings of a validation: each prompt at each size, alone and with LoRAs that the recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltxcore.models.errors import ModelError
from ltxcore.models.files.hashes import remembered_hashes
from ltxcore.models.files.locate_weights import find_adapter
from ltxcore.pipeline.base.context import Context
from ltxcore.store.fingerprint import hash_file
from ltxcore.validation.rendering_settings import RenderSettings, is_distilled


@dataclass(frozen=True)
class ValidationRun:
    """One way in which every prompt is rendered."""

    label: str
    """Empty where nothing sets it apart."""
    sized: RenderSettings
    """Size and sampling, before an adapter has its say."""
    adapters: tuple[tuple[Path, float], ...] = ()
    """LoRA files beside the trained one, and their strengths."""
    second: tuple[Path, float] | None = None
    """The LoRA of the second stage alone, and its strength."""

    def name(self, prompt: str) -> str:
        """The name of the rendering of a prompt of that short name."""
        return f"{prompt}-{self.label}" if self.label else prompt

    @property
    def plan(self) -> RenderSettings:
        """The sampling settings; with a distilled LoRA, eight steps without guidance."""
        distilled = any(is_distilled(path) for path, _ in self.adapters)
        return self.sized.distilled() if distilled else self.sized


def validation_runs(ctx: Context, plans: Sequence[RenderSettings]) -> list[ValidationRun]:
    """The runs of a recipe, the plain one of the first size first.

    Raises:
        ModelError: an adapter is not on this machine.
    """
    found = {
        label: tuple((find_adapter(a.path, fetch=False), a.strength) for a in adapters)
        for label, adapters in ctx.recipe.validation.adapter_runs
    }
    lora = ctx.recipe.validation.upscale_lora
    second = None if lora is None else (find_adapter(lora.path, fetch=False), lora.strength)
    return [ValidationRun(name, plan, found[label], second) for name, label, plan in _labelled(ctx, plans)]


def _labelled(ctx: Context, plans: Sequence[RenderSettings]) -> Iterator[tuple[str, str, RenderSettings]]:
    """The suffix, the adapters' label and the settings of each run; the first size adds nothing to the
    suffix."""
    for label, _ in ctx.recipe.validation.adapter_runs:
        for plan in plans:
            size = "" if plan is plans[0] else f"{plan.width}x{plan.height}"
            yield "-".join(filter(None, (label, size))), label, plan


def adapter_request(ctx: Context) -> dict[str, dict[str, str]]:
    """The content of each adapter, for a request; nothing where there is none."""
    files = {name: find_adapter(name, fetch=False) for name in ctx.recipe.validation.adapter_paths}
    hashes = remembered_hashes(files.values(), ctx.workspace.models)
    return {"adapters": {name: hashes[file] for name, file in files.items()}} if files else {}


def require_unchanged_adapters(ctx: Context) -> None:
    """Read each adapter and compare it with the hash that the request names.

    The hash is remembered until the file's size or times change, which a damaged disk does not do.

    Raises:
        ModelError: one has other content under the same size and times.
    """
    for name, sha256 in adapter_request(ctx).get("adapters", {}).items():
        file = find_adapter(name, fetch=False)
        if hash_file(file) != sha256:
            raise ModelError(
                f"{file} has other content than when it was first read, under the same size and times: the "
                "disk has damaged it. Copy it again; if its content is meant, `touch` it"
            )


def renderings(ctx: Context, prompts: Mapping[str, str], plans: Sequence[RenderSettings]) -> dict[str, str]:
    """Name -> prompt of every rendering.

    Raises:
        ValueError: two have one name, e.g. the prompt `sea-canny` and `sea` with the adapter `canny`.
    """
    found: dict[str, str] = {}
    for label, _, plan in _labelled(ctx, plans):
        for name, prompt in prompts.items():
            if (full_name := ValidationRun(label, plan).name(name)) in found:
                raise ValueError(
                    f"two renderings would be called {full_name!r}; rename that prompt or adapter"
                )
            found[full_name] = prompt
    return found
