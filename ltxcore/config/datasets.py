"""The dataset file: a list of datasets in the seed's keys, and what a snapshot needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltxcore.config.base import KeyPath, Strict, parse, read_document
from ltxcore.config.caption_filters import names_file, read_filters
from ltxcore.config.companion_links import companion_problems
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
from ltxcore.config.errors import ConfigError, Problem, nearest
from ltxcore.config.simpletuner_datasets import translate_datasets

LEVELS_ABOVE_JSON = 2
NO_DEFAULTS = DataDefaults()


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
        """Every dataset of files that are trained on, or heard with them."""
        return (*self.video, *self.image, *self.audio)

    @property
    def linked_ids(self) -> frozenset[str]:
        """Audio datasets that hold the sound of clips; the others are trained on alone."""
        return frozenset(name for dataset in self.video for name in dataset.linked)

    @property
    def audio_only(self) -> bool:
        """Whether nothing but sound is trained."""
        return not self.image and all(dataset.audio.audio_only for dataset in self.video)

    @property
    def files(self) -> tuple[Media | ConditioningDataset, ...]:
        """Every dataset of files, also of files that belong to others'."""
        return (*self.media, *self.conditioning)

    def companions(self, dataset: Media) -> tuple[ConditioningDataset, ...]:
        """The conditioning datasets that a dataset of clips names."""
        names = dataset.conditioning_data if isinstance(dataset, VideoDataset | ImageDataset) else ()
        return tuple(other for other in self.conditioning if other.id in names)

    def directory(self, dataset: Media | ConditioningDataset) -> Path:
        """The directory of a dataset, taken relative to the file that names it."""
        return find_directory(self.source, dataset.instance_data_dir)


def find_directory(source: Path, name: str) -> Path:
    """The directory that a dataset file means.

    A multidatabackend.json lies in `config/` or deeper and names directories from the project's root, so
    for JSON the directories above the file's own are looked into as well, the nearest first.
    """
    places = _places(source, name)
    return next((place for place in places if place.is_dir()), places[0])


def find_table(source: Path, name: str, directory: Path) -> Path | None:
    """The table of captions that a dataset file means: found as `directory` is, or inside that."""
    places = [*_places(source, name), directory / Path(name).expanduser()]
    return next((place for place in places if place.is_file()), None)


def find_filters(source: Path, entries: Sequence[str]) -> tuple[str, ...]:
    """A caption_filter_list with the place of the file that it names, found as directories are."""
    if not names_file(entries):
        return tuple(entries)
    places = _places(source, entries[0])
    return (str(next((place for place in places if place.is_file()), places[0])),)


def _places(source: Path, name: str) -> list[Path]:
    wanted = Path(name).expanduser()
    if source.suffix != ".json" or wanted.is_absolute():
        return [(source.parent / wanted).resolve()]
    return [(level / wanted).resolve() for level in source.resolve().parents[: 1 + LEVELS_ABOVE_JSON]]


def load_datasets(path: Path, defaults: DataDefaults = NO_DEFAULTS) -> Datasets:
    """Read a dataset file: YAML, or the seed's multidatabackend.json, whose keys are translated and logged.

    `defaults` holds for datasets that do not say it themselves.

    Raises:
        ConfigError: an unknown key, a wrong type, two datasets of one id, a missing directory or file, no
            text_embeds, nothing to train on, or sound that belongs to nothing; with file, line, key and
            what to write instead.
    """
    data, lines = read_document(path)
    if path.suffix == ".json":
        translation = translate_datasets(data, path, lines)
        translation.check()
        translation.log()
        data, lines = translation.data, translation.places
    return parse_datasets(data, lines, path, defaults)


def parse_datasets(
    data: Any, lines: dict[KeyPath, int], path: Path, defaults: DataDefaults = NO_DEFAULTS
) -> Datasets:
    """The datasets of a file that has been read; as `load_datasets`."""
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
        *companion_problems(entries, lines),
    ]
    if problems:
        raise ConfigError(source, problems)
    used = {number: entry for number, entry in enumerate(entries) if not entry.disabled}
    text = next(e for e in used.values() if isinstance(e, TextEmbedsDataset))
    chosen = {n: e for n, e in used.items() if not isinstance(e, TextEmbedsDataset)}
    directories = [
        Problem(
            f"{n}.instance_data_dir", f"there is no directory {place}", lines.get((n, "instance_data_dir"))
        )
        for n, e in chosen.items()
        if not (place := _directory(path, e)).is_dir()
    ]
    if directories:
        raise ConfigError(source, directories)
    for_all = _filters(path, text, entries.index(text), lines)
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
    entry: Entry = parse(KINDS[kind], item, source, lines, at=(number,))
    return entry


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
    """That there is something to train on, a place for captions, and a use for every set of sounds."""
    problems = []
    used = [e for e in entries if not e.disabled]
    if not any(isinstance(e, TextEmbedsDataset) for e in used):
        problems.append(
            Problem("", "has no text_embeds dataset; add `- {id: text-embeds, dataset_type: text_embeds}`")
        )
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
            told = f"`{entry.id}` is linked to clips by s2v_datasets, so it cannot be audio_only; remove one"
            problems.append(Problem(f"{number}.audio.audio_only", told, line))
        if pictures and entry.id not in linked and not entry.audio.audio_only:
            told = (
                f"no video dataset uses the sound of `{entry.id}`; link it there by "
                f"`s2v_datasets: [{entry.id}]`, or "
                "write `audio: {audio_only: true}` to train on it alone"
            )
            problems.append(Problem(f"{number}.id", told, line))
    return problems


def _links(entries: list[Entry], lines: dict[KeyPath, int]) -> list[Problem]:
    """That s2v_datasets names sets of sounds, and none of them is named like a set of split sound."""
    problems = []
    sounds = {e.id for e in entries if isinstance(e, AudioDataset) and not e.disabled}
    for number, entry in enumerate(entries):
        if not isinstance(entry, VideoDataset) or entry.disabled:
            continue
        line = lines.get((number, "s2v_datasets"))
        for name in entry.linked:
            if name not in sounds:
                told = f"`{name}` is no audio dataset in use; {nearest(name, {*sounds, entry.audio_set_id})}"
                problems.append(Problem(f"{number}.s2v_datasets", told, line))
        if entry.audio_set_id in {e.id for e in entries}:
            told = (
                f"`{entry.audio_set_id}` is the set of sounds that is split from `{entry.id}`; "
                "give the other set another id"
            )
            problems.append(Problem(f"{number}.id", told, lines.get((number, "id"))))
        if entry.audio.audio_only and entry.linked:
            told = f"`{entry.id}` is audio_only, so its own sound is trained; remove s2v_datasets"
            problems.append(Problem(f"{number}.s2v_datasets", told, line))
    return problems
