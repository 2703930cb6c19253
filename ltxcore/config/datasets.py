"""The dataset file: a list of datasets with SimpleTuner's keys."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ltxcore.config.base import UNKNOWN, KeyPath, Strict, parse, places_of, read_document, written
from ltxcore.config.caption_filters import names_file, read_filters
from ltxcore.config.conditioning_links import conditioning_problems
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.dataset_kinds import (
    KINDS,
    AudioDataset,
    ConditioningDataset,
    Entry,
    ImageDataset,
    Media,
    TextEmbedsDataset,
    VideoDataset,
)
from ltxcore.config.dataset_places import SAMPLES, find_directory, find_filters, find_table, leads_out
from ltxcore.config.errors import NEAREST, ConfigError, Problem, nearest
from ltxcore.config.simpletuner.datasets import translate_datasets

NO_DEFAULTS = DataDefaults()
NO_TEXT_EMBEDS = TextEmbedsDataset(id="text-embeds", dataset_type="text_embeds")
"""Of a file without such an entry: it asks for nothing."""


class Datasets(Strict):
    """The datasets of one file that are not disabled, checked against each other and against the disk."""

    source: Path
    video: tuple[VideoDataset, ...]
    image: tuple[ImageDataset, ...] = ()
    audio: tuple[AudioDataset, ...] = ()
    conditioning: tuple[ConditioningDataset, ...] = ()
    text_embeds: TextEmbedsDataset

    @property
    def media(self) -> tuple[Media, ...]:
        """Every dataset of clips, pictures or sounds, without conditioning datasets."""
        return (*self.video, *self.image, *self.audio)

    @property
    def linked_ids(self) -> frozenset[str]:
        """Audio datasets that hold the sound of clips; the others are trained on alone."""
        return frozenset(name for dataset in self.video for name in dataset.linked)

    @property
    def audio_only(self) -> bool:
        """Whether only sound is trained."""
        return not self.image and all(dataset.audio.audio_only for dataset in self.video)

    @property
    def files(self) -> tuple[Media | ConditioningDataset, ...]:
        """Every dataset of files, including conditioning datasets."""
        return (*self.media, *self.conditioning)

    def conditioning_of(self, dataset: Media) -> tuple[ConditioningDataset, ...]:
        """The conditioning datasets that a dataset of clips names, in its order."""
        in_use = {other.id: other for other in self.conditioning}
        return tuple(in_use[name] for name in dataset.conditioning_data if name in in_use)

    def directory(self, dataset: Media | ConditioningDataset) -> Path:
        """The directory of a dataset, taken relative to the file that names it."""
        return find_directory(self.source, dataset.instance_data_dir)


NO_FILE: Final = "no such file; name the dataset file: --datasets FILE"


def load_datasets(path: Path, defaults: DataDefaults = NO_DEFAULTS, origin: Path | None = None) -> Datasets:
    """Read a dataset file: YAML, or the seed's multidatabackend.json, whose keys are translated and logged.

    Args:
        defaults: hold for datasets that do not say it themselves.
        origin: for a copy, the original file: directories are relative to it, and messages name it.

    Raises:
        ConfigError: an unknown key, a wrong type, two datasets of one id, a missing directory or file,
            nothing to train on, or sound that belongs to nothing; with file, line, dataset, key and what to
            write instead.
    """
    if not path.exists():
        raise ConfigError(str(path), [Problem("", NO_FILE)])
    data, lines = read_document(path)
    path = origin or path
    if path.suffix == ".json":
        translation = translate_datasets(data, path, lines)
        translation.check()
        translation.log()
        data, lines = translation.data, translation.places
    return parse_datasets(data, lines, path, defaults)


def parse_datasets(
    data: Any, lines: dict[KeyPath, int], path: Path, defaults: DataDefaults = NO_DEFAULTS
) -> Datasets:
    """The datasets of a file that is already parsed; see `load_datasets`.

    Raises:
        ConfigError: a key or value is wrong; every problem names its dataset.
    """
    try:
        return _parse(data, lines, path, defaults)
    except ConfigError as error:
        raise ConfigError(error.source, [_with_owner(problem, data) for problem in error.problems]) from error


def _with_owner(problem: Problem, data: Any) -> Problem:
    """The problem with the id of the dataset that its key's number means."""
    number = problem.key.partition(".")[0]
    entry = data[int(number)] if number.isdigit() and isinstance(data, list) else None
    name = entry.get("id") if isinstance(entry, dict) else None
    return replace(problem, owner=name) if isinstance(name, str) else problem


def _parse(data: Any, lines: dict[KeyPath, int], path: Path, defaults: DataDefaults) -> Datasets:
    source = str(path)
    if not isinstance(data, list):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(
            source,
            [Problem("", f"must be a list of datasets, each beginning with `- id:`; found {found}", 1)],
        )
    entries = _entries([defaults.fill(item) for item in data], source, lines)
    problems = [
        *_same_ids(entries, lines),
        *_roles(entries, lines),
        *_links(entries, lines),
        *conditioning_problems(entries, lines),
    ]
    if problems:
        raise ConfigError(source, problems)
    used = {number: entry for number, entry in enumerate(entries) if not entry.disabled}
    text = next((e for e in used.values() if isinstance(e, TextEmbedsDataset)), NO_TEXT_EMBEDS)
    chosen = {n: e for n, e in used.items() if not isinstance(e, TextEmbedsDataset)}
    directories = [
        Problem(f"{n}.instance_data_dir", _no_directory(e, place), lines.get((n, "instance_data_dir")))
        for n, e in chosen.items()
        if not (place := _directory(path, e)).is_dir()
    ]
    if directories:
        raise ConfigError(source, directories)
    linked = _linked_out(path, used, [_directory(path, entry) for entry in chosen.values()], lines)
    if linked:
        raise ConfigError(source, linked)
    for_all = () if text is NO_TEXT_EMBEDS else _filters(path, text, entries.index(text), lines)
    media = [
        _with_files(path, entry, number, for_all, lines)
        for number, entry in chosen.items()
        if not isinstance(entry, ConditioningDataset)
    ]
    return Datasets(
        source=path.resolve(),
        video=tuple(e for e in media if isinstance(e, VideoDataset)),
        image=tuple(e for e in media if isinstance(e, ImageDataset)),
        audio=tuple(e for e in media if isinstance(e, AudioDataset)),
        conditioning=tuple(e for e in chosen.values() if isinstance(e, ConditioningDataset)),
        text_embeds=text,
    )


def _directory(file: Path, dataset: Media | ConditioningDataset) -> Path:
    return find_directory(file, dataset.instance_data_dir)


def _no_directory(dataset: Media | ConditioningDataset, place: Path) -> str:
    message = f"there is no directory {place}"
    if dataset.instance_data_dir != SAMPLES:
        return message
    named = SAMPLES if Path(SAMPLES).resolve() == place else shlex.quote(str(place))
    return f"{message}; `ltx2 samples {named}` makes the sample clips"


def _linked_out(
    file: Path, used: dict[int, Entry], roots: Iterable[Path], lines: dict[KeyPath, int]
) -> list[Problem]:
    """Tables and lists of filters that lie in a dataset's directory and are links out of all of them.

    Who may write there could have such a file read as the captions of a public model card.
    """
    problems, tops = [], [root.resolve() for root in roots]
    for number, entry in used.items():
        if isinstance(entry, ConditioningDataset) or getattr(entry, "follow_links", False):
            continue
        named: dict[KeyPath, str] = {}
        if names_file(entry.caption_filter_list):
            named[("caption_filter_list",)] = entry.caption_filter_list[0]
        table = None if isinstance(entry, TextEmbedsDataset) else entry.parquet
        if table is not None:
            named["parquet", "path"] = table.path
        for key, name in named.items():
            directory = None if isinstance(entry, TextEmbedsDataset) else _directory(file, entry)
            if leads_out(file, name, directory, tops):
                message = f"{name} is a link out of the datasets' directories; put the file itself there"
                place = ".".join(map(str, (number, *key)))
                problems.append(Problem(place, message, lines.get((number, *key))))
    return problems


def _with_files(
    file: Path, dataset: Media, number: int, for_all: tuple[str, ...], lines: dict[KeyPath, int]
) -> Media:
    """The dataset with its caption filters read and its table of captions found."""
    changes: dict[str, Any] = {"caption_filter_list": (*_filters(file, dataset, number, lines), *for_all)}
    if dataset.parquet is not None:
        named, directory = Path(dataset.parquet.path).expanduser(), _directory(file, dataset)
        table = find_table(file, dataset.parquet.path, directory)
        if table is None:
            beside = file.resolve().parent / named
            fault = f"there is no file {beside}" + (
                "" if named.is_absolute() else f", nor {directory / named}"
            )
            line = lines.get((number, "parquet", "path"))
            raise ConfigError(str(file), [Problem(f"{number}.parquet.path", fault, line)])
        changes["parquet"] = dataset.parquet.model_copy(update={"path": str(table)})
    return dataset.model_copy(update=changes)


def _filters(
    file: Path, entry: Media | TextEmbedsDataset, number: int, lines: dict[KeyPath, int]
) -> tuple[str, ...]:
    try:
        return read_filters(find_filters(file, entry.caption_filter_list))
    except ValueError as error:
        at = lines.get((number, "caption_filter_list"))
        raise ConfigError(str(file), [Problem(f"{number}.caption_filter_list", str(error), at)]) from error


def _entries(data: list[Any], source: str, lines: dict[KeyPath, int]) -> list[Entry]:
    entries: list[Entry] = []
    problems: list[Problem] = []
    for number, item in enumerate(data):
        try:
            entries.append(_entry(item, number, source, lines))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(source, problems)
    return entries


def _entry(item: Any, number: int, source: str, lines: dict[KeyPath, int]) -> Entry:
    if not isinstance(item, dict):
        fault = Problem(
            str(number),
            f"must be a dataset with `id` and `dataset_type`; found {item!r}",
            lines.get((number,)),
        )
        raise ConfigError(source, [fault])
    kind = item.get("dataset_type")
    if kind not in KINDS:
        found = "is required and was not given" if kind is None else f"{kind!r} is not a kind of dataset"
        advice = nearest(str(kind), KINDS)
        line = lines.get((number, "dataset_type"), lines.get((number,)))
        raise ConfigError(source, [Problem(f"{number}.dataset_type", f"{found}; {advice}", line)])
    try:
        entry: Entry = parse(KINDS[kind], item, source, lines, at=(number,))
    except ConfigError as error:
        problems = [_where_it_belongs(problem, KINDS[kind], number) for problem in error.problems]
        raise ConfigError(source, problems) from None
    return entry


def _where_it_belongs(problem: Problem, kind: type[Strict], number: int) -> Problem:
    """Advice for a key that stands in another block of its dataset than it should."""
    key = problem.key.rpartition(".")[2]
    places = [place for place in places_of(kind, key) if problem.key != f"{number}.{place}"]
    if not problem.message.startswith(UNKNOWN) or not places:
        return problem
    message = f"belongs to {' or '.join(places[:NEAREST])}; write {written(places[0])}"
    return replace(problem, message=message)


def _same_ids(entries: list[Entry], lines: dict[KeyPath, int]) -> list[Problem]:
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry.id in seen:
            problems.append(
                Problem(
                    f"{number}.id",
                    f"`{entry.id}` is already the id of dataset {seen[entry.id]}; give each its own",
                    lines.get((number, "id")),
                )
            )
        seen.setdefault(entry.id, number)
    return problems


def _roles(entries: list[Entry], lines: dict[KeyPath, int]) -> list[Problem]:
    """Check that there is something to train on, and a use for every audio dataset."""
    problems = []
    used = [e for e in entries if not e.disabled]
    if all(isinstance(e, TextEmbedsDataset | ConditioningDataset) for e in used):
        problems.append(
            Problem(
                "",
                "has no video, image or audio dataset that is not disabled, so there is nothing to train on",
            )
        )
    pictures = any(
        isinstance(e, ImageDataset) or (isinstance(e, VideoDataset) and not e.audio.audio_only) for e in used
    )
    linked = {name for e in used if isinstance(e, VideoDataset) for name in e.linked}
    for number, entry in enumerate(entries):
        if not isinstance(entry, AudioDataset) or entry.disabled:
            continue
        line = lines.get((number, "id"))
        if entry.id in linked and entry.audio.audio_only:
            message = (
                f"`{entry.id}` is linked to clips by s2v_datasets, so it cannot be audio_only; remove one"
            )
            problems.append(Problem(f"{number}.audio.audio_only", message, line))
        if pictures and entry.id not in linked and not entry.audio.audio_only:
            message = (
                f"no video dataset uses the sound of `{entry.id}`; link it there by "
                f"`s2v_datasets: [{entry.id}]`, or "
                "write `audio: {audio_only: true}` to train on it alone"
            )
            problems.append(Problem(f"{number}.id", message, line))
    return problems


def _links(entries: list[Entry], lines: dict[KeyPath, int]) -> list[Problem]:
    """Check that s2v_datasets names audio datasets, and that none has the id of a set of split sound."""
    problems = []
    sounds = {e.id for e in entries if isinstance(e, AudioDataset) and not e.disabled}
    for number, entry in enumerate(entries):
        if not isinstance(entry, VideoDataset) or entry.disabled:
            continue
        line = lines.get((number, "s2v_datasets"))
        for name in entry.linked:
            if name not in sounds:
                message = (
                    f"`{name}` is not an audio dataset in use; {nearest(name, {*sounds, entry.audio_set_id})}"
                )
                problems.append(Problem(f"{number}.s2v_datasets", message, line))
        if entry.audio_set_id in {e.id for e in entries}:
            message = (
                f"`{entry.audio_set_id}` is the set of sounds that is split from `{entry.id}`; "
                "give the other set another id"
            )
            problems.append(Problem(f"{number}.id", message, lines.get((number, "id"))))
        if entry.audio.audio_only and entry.linked:
            message = f"`{entry.id}` is audio_only, so its own sound is trained; remove s2v_datasets"
            problems.append(Problem(f"{number}.s2v_datasets", message, line))
    return problems
