"""What of a recipe can be judged only with the model or the data at hand, before anything is spent."""

from __future__ import annotations

from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.tread_settings import SOURCE
from ltxcore.models.errors import ModelError
from ltxcore.stages.context import Context


def check_training(ctx: Context, *, audio_only: bool) -> None:
    """Refuse what a training would refuse.

    Where the model is not on this machine yet, what depends on its blocks is left for later.

    Args:
        ctx: its recipe and model are looked at.
        audio_only: whether the data is sound without pictures.

    Raises:
        ConfigError: names the key.
    """
    tread = ctx.recipe.tread
    if not tread.routes:
        return
    if audio_only:
        told = (
            "says which video tokens pass by blocks, but the data is sound alone; leave tread out, or add a "
            "dataset with pictures"
        )
        raise ConfigError(SOURCE, [Problem("tread.routes", told)])
    layers = _layers(ctx)
    if layers is not None:
        tread.spans(layers)


def check_sharing(ctx: Context) -> None:
    """Refuse samples that take a pass of their own through a transformer that processes share out.

    Raises:
        ConfigError: names the key.
    """
    if ctx.recipe.processes.shared_out and any(sample.regularisation for sample in ctx.snapshot.samples):
        told = (
            "shares the transformer out, so that all processes must run it equally often, but a batch of "
            "regularisation data runs it twice; use DDP, or leave is_regularisation_data out"
        )
        raise ConfigError(SOURCE, [Problem("processes.accelerate_config", told)])


def _layers(ctx: Context) -> int | None:
    try:
        return int(ctx.source.config("transformer")["num_layers"])
    except ModelError:
        return None
