"""The loss curves as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltxcore.store.blobs import write_atomic
from ltxcore.training.early_stop import Evaluated, best_evaluated, read_evaluations
from ltxcore.training.metrics import StepMetrics, read_metrics

SMOOTHING_SHARE = 0.05
"""The smoothed curve is a running mean over this share of the steps."""
INK = "#7c8594"
"""Contrast 3.7 to white and 4.6 to the pages' dark cards."""
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:brown", "tab:pink", "tab:olive")


def plot_losses(metrics_file: Path, picture: Path, evaluations_file: Path | None = None) -> None:
    """Draw the loss and its parts, as they weigh in it, over the steps, each step faintly and smoothed.

    The loss on held-out clips, where it is on record, is drawn as points, and so is that of the average of
    the weights; the lowest of those that are exported is marked.

    Raises:
        ValueError: the file holds no step.
    """
    # The object interface: pyplot keeps global state and picks a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = read_metrics(metrics_file)
    if not metrics:
        raise ValueError(f"{metrics_file} holds no step to draw")
    curves = loss_curves(metrics)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color=colour, linewidth=1.8, label=name)
    if evaluations_file is not None:
        _draw_evaluations(axes, read_evaluations(evaluations_file))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    # CREPA's part may be below zero.
    axes.set_ylim(bottom=min(0.0, *(value for points in curves.values() for _, value in points)))
    _colour_for_any_paper(axes)
    picture.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, format="png", transparent=True)
    # It is drawn again and again while training, and looked at meanwhile.
    write_atomic(picture, drawn.getvalue())


def _colour_for_any_paper(axes: Any) -> None:
    """Colour lines and letters to be read on white and on black: the picture has no paper of its own."""
    axes.grid(color=INK, alpha=0.3)
    axes.tick_params(colors=INK)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.legend(labelcolor=INK, framealpha=0.0, edgecolor=INK)


def loss_curves(metrics: Sequence[StepMetrics]) -> dict[str, list[tuple[int, float]]]:
    """The loss, and of each of its parts what it adds to it, as points (step, value) by a curve's label.

    The label tells a part that is weighted from its own series, e.g. `7 x reflexflow_drift`.

    Args:
        metrics: of a training, in the order of its steps.
    """
    curves = {"loss": [(m.step, m.loss) for m in metrics]}
    weights: dict[str, set[float]] = {}
    for m in metrics:
        for name, (weight, _) in m.parts.items():
            weights.setdefault(name, set()).add(weight)
    labels = {name: _label(name.removesuffix("_loss"), found) for name, found in weights.items()}
    for m in metrics:
        for name, (weight, value) in m.parts.items():
            curves.setdefault(labels[name], []).append((m.step, weight * value))
    return curves


def _label(name: str, weights: set[float]) -> str:
    if weights == {1}:
        return name
    # A part that some of a step's batches lack weighs less in that step.
    return f"{min(weights):g} x {name}" if len(weights) == 1 else f"{name}, weighted"


def _draw_evaluations(axes: Any, record: Sequence[Evaluated]) -> None:
    if not record:
        return
    averages = [(e.step, e.ema) for e in record if e.ema is not None]
    kinds = (
        ("held out", "tab:red", [(e.step, e.eval_loss) for e in record]),
        ("held out, average", "tab:purple", averages),
    )
    for name, colour, points in kinds:
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour, marker="o", markersize=3.5, linewidth=1.2, label=name)
    best = best_evaluated(record)
    place = "the base" if best.step == 0 else f"step {best.step}"
    axes.plot(
        [best.step],
        [best.decisive],
        color="tab:purple" if best.exports_ema else "tab:red",
        marker="*",
        markersize=11,
        linestyle="none",
        label=f"lowest: {best.decisive:.4f}, {place}",
    )


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean over the present and the earlier values, as many as SMOOTHING_SHARE of them all."""
    window = max(1, round(len(values) * SMOOTHING_SHARE))
    return [
        sum(values[max(0, end - window) : end]) / (end - max(0, end - window))
        for end in range(1, len(values) + 1)
    ]
