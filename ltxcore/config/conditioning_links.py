"""Checks the links between clips and the conditioning datasets with their references and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ltxcore.config.base import KeyPath
from ltxcore.config.dataset_kinds import AudioDataset, ConditioningDataset, Entry, Media, VideoDataset
from ltxcore.config.errors import Problem, nearest


def conditioning_problems(entries: Sequence[Entry], lines: Mapping[KeyPath, int]) -> list[Problem]:
    """Every fault of the links, with its line."""
    sets = {e.id: e for e in entries if isinstance(e, ConditioningDataset) and not e.disabled}
    clips = {n: e for n, e in enumerate(entries) if isinstance(e, Media) and not e.disabled}
    linked = {name for e in clips.values() if isinstance(e, VideoDataset) for name in e.linked}
    problems = []
    for number, dataset in clips.items():
        line = lines.get((number, "conditioning_data"))
        problems += [
            Problem(f"{number}.conditioning_data", message, line)
            for message in _faults_of_links(dataset, sets, dataset.id in linked)
        ]
    named = {name for dataset in clips.values() for name in dataset.conditioning_data}
    for number, entry in enumerate(entries):
        if isinstance(entry, ConditioningDataset) and entry.id in sets and entry.id not in named:
            message = (
                f"no dataset uses `{entry.id}`; write `conditioning_data: {entry.id}` in the dataset of the "
                "clips that it belongs to"
            )
            problems.append(Problem(f"{number}.id", message, lines.get((number, "id"))))
    return problems


def _faults_of_links(dataset: Media, sets: Mapping[str, ConditioningDataset], is_linked: bool) -> list[str]:
    names = dataset.conditioning_data
    messages = [
        f"`{name}` is not a conditioning dataset in use; {nearest(name, sets)}"
        for name in names
        if name not in sets
    ]
    for kind in ("reference_audio", "mask", "loss_mask"):
        of_kind = [name for name in names if name in sets and sets[name].conditioning_type == kind]
        if len(of_kind) > 1:
            messages.append(f"names {', '.join(of_kind)}, all of conditioning_type {kind}; keep one of them")
    shown = [name for name in names if name in sets and not sets[name].holds_sounds]
    alone = isinstance(dataset, AudioDataset) or (
        isinstance(dataset, VideoDataset) and dataset.audio.audio_only
    )
    if shown and alone:
        messages.append(
            f"names {', '.join(shown)}, but of `{dataset.id}` only the sound is trained, so it has no "
            "pictures to condition; remove that"
        )
    if names and is_linked:
        messages.append(
            f"`{dataset.id}` holds the sound of clips; write conditioning_data in the dataset of the clips"
        )
    return messages
