"""TREAD: routes on which some of the video tokens skip some of the blocks."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.errors import ConfigError, Problem

SOURCE = "the recipe"


class Route(Strict):
    """Consecutive blocks that compute on only a part of the video tokens."""

    selection_ratio: float = Field(
        ge=0, lt=1, description="The share of video tokens that skip the route's blocks."
    )
    start_layer_idx: int = Field(description="The route's first block, from 0; negative from the end.")
    end_layer_idx: int = Field(description="The route's last block, inclusive; -1 is the model's last block.")

    @model_validator(mode="after")
    def _forwards(self) -> Route:
        same_side = (self.start_layer_idx < 0) == (self.end_layer_idx < 0)
        if same_side and self.end_layer_idx < self.start_layer_idx:
            raise ValueError(_ends_before(self))
        return self


@dataclass(frozen=True)
class Span:
    """A route over the blocks of a model: `start` to `end`, both from 0 and both on the route."""

    start: int
    end: int
    ratio: float


class TreadSettings(Strict):
    """Routes of training; held-out loss and validation use every token in every block."""

    routes: tuple[Route, ...] = Field((), description="Each over blocks of its own.")

    @property
    def enabled(self) -> bool:
        """Whether any token skips any block."""
        return any(route.selection_ratio > 0 for route in self.routes)

    def spans(self, layers: int) -> tuple[Span, ...]:
        """The routes over a model of this many blocks, in the order of the recipe.

        Raises:
            ConfigError: a route leaves the model, ends before it starts, or overlaps another; names the key.
        """
        problems: list[Problem] = []
        spans: list[Span] = []
        for number, route in enumerate(self.routes):
            found = _past_the_model(route, layers, f"tread.routes.{number}")
            start, end = (index % layers for index in (route.start_layer_idx, route.end_layer_idx))
            if not found and end < start:
                found = [Problem(f"tread.routes.{number}.end_layer_idx", _ends_before(route, layers))]
            if not found:
                found = _overlaps(spans, Span(start, end, route.selection_ratio), number)
            problems += found
            spans.append(Span(start, end, route.selection_ratio))
        if problems:
            raise ConfigError(SOURCE, problems)
        return tuple(spans)

    def require_whole(self, block: int, layers: int, key: str) -> None:
        """Check that the output of a block has all video tokens, which the recipe's `key` needs.

        Raises:
            ConfigError: a route with skipped tokens continues after the block; names both keys.
        """
        for number, span in enumerate(self.spans(layers)):
            if span.ratio > 0 and span.start <= block < span.end:
                message = (
                    f"is {block}, inside the route of blocks {span.start} to {span.end} "
                    f"(tread.routes.{number}), where only a part of the tokens is; give a block before "
                    f"{span.start} or from {span.end} on, or move the route's start_layer_idx to {block + 1}"
                )
                raise ConfigError(SOURCE, [Problem(key, message)])


def _past_the_model(route: Route, layers: int, key: str) -> list[Problem]:
    return [
        Problem(
            f"{key}.{name}",
            f"is {value}, but the model has {layers} blocks; give 0 to {layers - 1}, or -{layers} to -1 to "
            "count from the end",
        )
        for name, value in (
            ("start_layer_idx", route.start_layer_idx),
            ("end_layer_idx", route.end_layer_idx),
        )
        if not -layers <= value < layers
    ]


def _ends_before(route: Route, layers: int | None = None) -> str:
    message = f"end_layer_idx {route.end_layer_idx} comes before start_layer_idx {route.start_layer_idx}"
    if layers is not None:
        message += f" in a model of {layers} blocks"
    return f"{message}; give the route's first block as start and its last one as end"


def _overlaps(before: list[Span], span: Span, number: int) -> list[Problem]:
    return [
        Problem(
            f"tread.routes.{number}.start_layer_idx",
            f"the route of blocks {span.start} to {span.end} overlaps tread.routes.{other}, which has blocks "
            f"{taken.start} to {taken.end}; let routes follow one another",
        )
        for other, taken in enumerate(before)
        if span.start <= taken.end and taken.start <= span.end
    ]
