"""The name and the tags by which a person finds a run again among others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ltxcore.pipeline.base.context import Context

SHOWN_DATASETS = 2


def run_name(recipe_file: str, datasets: Sequence[str], began: datetime) -> str:
    """Recipe, datasets and date of a run, such as `toy on glimmer, 2026-11-29 23:40`.

    Args:
        recipe_file: its path; empty: the defaults.
        datasets: ids of the datasets; empty while they are not known.
        began: when, in the time zone that people read.
    """
    recipe = Path(recipe_file).stem if recipe_file else "defaults"
    shown = ", ".join(datasets[:SHOWN_DATASETS])
    more = f" + {len(datasets) - SHOWN_DATASETS}" if len(datasets) > SHOWN_DATASETS else ""
    on = f" on {shown}{more}" if datasets else ""
    return f"{recipe}{on}, {began:%Y-%m-%d %H:%M}"


def dataset_ids(ctx: Context) -> list[str]:
    """The datasets of clips, in the order of their file.

    Raises:
        ConfigError: the dataset file is wrong.
    """
    return [dataset.id for dataset in ctx.datasets.media]


def run_tags(ctx: Context) -> list[str]:
    """Model, datasets and trigger words of a run, each as `word:value`.

    Raises:
        ConfigError: the dataset file is wrong.
    """
    model = ctx.recipe.model.pretrained_model_name_or_path.rstrip("/").rpartition("/")[2]
    trigger = ctx.recipe.lora.trigger
    return [
        f"model:{model}",
        *(f"dataset:{name}" for name in dataset_ids(ctx)),
        *([f"trigger:{trigger}"] if trigger else []),
    ]
