"""A config.json and a multidatabackend.json, written as this project's recipe and dataset file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ltxcore.config.base import parse, read_document
from ltxcore.config.caption_filters import names_file
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.dataset_places import find_directory, find_filters, find_table
from ltxcore.config.datasets import parse_datasets
from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.recipe import Recipe
from ltxcore.config.simpletuner.datasets import translate_datasets
from ltxcore.config.simpletuner.training import translate_config
from ltxcore.config.simpletuner.translation import Translation

RECIPE_FILE, DATASETS_FILE = "recipe.yaml", "datasets.yaml"


@dataclass(frozen=True)
class Import:
    """Both files, translated but not yet written."""

    config: Translation
    datasets: Translation

    @classmethod
    def read(cls, config: Path, datasets: Path) -> Import:
        """Translate both files.

        Raises:
            ConfigError: a file cannot be read.
        """
        settings, settings_lines = read_document(config)
        if not isinstance(settings, dict):
            message = f"must be an object of keys and values; found a {type(settings).__name__}"
            raise ConfigError(str(config), [Problem("", message, 1)])
        entries, entry_lines = read_document(datasets)
        return cls(
            translate_config(settings, config, settings_lines),
            translate_datasets(entries, datasets, entry_lines),
        )

    def write(self, directory: Path, strict: bool = False) -> tuple[list[Path], list[str]]:
        """Write recipe.yaml and datasets.yaml into a directory; returns them, and what is still missing.

        Missing directories of clips are reported, not refused: the data may come later.

        Raises:
            ConfigError: a key is refused (with `strict` also one whose feature is not built), or the
                values do not fit together. Nothing is written then.
        """
        self.config.check(strict)
        self.datasets.check(strict)
        recipe = self._recipe()
        entries = self._entries()
        missing = _check_entries(entries, self.datasets)
        entries = [{**entry, **self._files(entry, directory)} for entry in entries]
        directory.mkdir(parents=True, exist_ok=True)
        files = [directory / RECIPE_FILE, directory / DATASETS_FILE]
        for file, data, translation in zip(
            files, (recipe, entries), (self.config, self.datasets), strict=True
        ):
            file.write_text(_document(data, translation), encoding="utf-8")
        return files, missing

    def _recipe(self) -> dict[str, Any]:
        parse(Recipe, self.config.data, self.config.source, self.config.places)
        return {
            section: values for section, values in self.config.data.items() if values and section != "data"
        }

    def _entries(self) -> list[dict[str, Any]]:
        """The datasets with what config.json says for all."""
        defaults = DataDefaults.model_validate(self.config.data.get("data", {}))
        entries = []
        for given in self.datasets.data:
            entry = defaults.fill(given)
            for key, value in entry.items():
                if given.get(key) != value:
                    message = f"{value!r}, from {Path(self.config.source).name}"
                    self.datasets.tell(f"{given.get('id')}.{key}", "added", message)
            entries.append(entry)
        return entries

    def _files(self, entry: dict[str, Any], directory: Path) -> dict[str, Any]:
        """What an entry says of files and directories, as seen from where it is written to."""
        source = Path(self.datasets.source)
        seen: dict[str, Any] = {}
        clips = entry.get("instance_data_dir")
        if isinstance(clips, str):
            found = find_directory(source, clips)
            seen["instance_data_dir"] = self._place(entry, "instance_data_dir", clips, found, directory)
        table = _table(entry)
        if table is not None and (place := _find_table(source, entry)) is not None:
            path = self._place(entry, "parquet.path", table, place, directory)
            seen["parquet"] = {**entry["parquet"], "path": path}
        filters = entry.get("caption_filter_list")
        names = [filters] if isinstance(filters, str) else filters
        if isinstance(names, list) and all(isinstance(name, str) for name in names) and names_file(names):
            place = Path(find_filters(source, names)[0])
            key = "caption_filter_list"
            seen[key] = self._place(entry, key, names[0], place, directory)
        return seen

    def _place(self, entry: dict[str, Any], key: str, name: str, found: Path, directory: Path) -> str:
        if Path(name).expanduser().is_absolute():
            return name
        seen_from_here = os.path.relpath(found, directory.resolve())
        if seen_from_here != os.path.normpath(name):
            message = f"{seen_from_here}, as seen from {directory}"
            self.datasets.tell(f"{entry.get('id')}.{key}", "renamed", message)
            return seen_from_here
        return name


def _table(entry: dict[str, Any]) -> str | None:
    """The table of captions that an entry names."""
    block = entry.get("parquet")
    path = block.get("path") if isinstance(block, dict) else None
    return path if isinstance(path, str) else None


def _find_table(source: Path, entry: dict[str, Any]) -> Path | None:
    return find_table(
        source, _table(entry) or "", find_directory(source, str(entry.get("instance_data_dir")))
    )


def _check_entries(entries: list[dict[str, Any]], datasets: Translation) -> list[str]:
    """Directories that do not exist yet; raises if the datasets cannot be used at all."""
    source = Path(datasets.source)
    parse_datasets([_as_if_there(entry, source) for entry in entries], datasets.places, source)
    missing = []
    for entry in datasets.data:
        if "instance_data_dir" in entry:
            directory = find_directory(source, entry["instance_data_dir"])
            missing += (
                [] if directory.is_dir() else [f"{entry.get('id')}: there is no directory {directory} yet"]
            )
        if _table(entry) is not None and _find_table(source, entry) is None:
            missing.append(f"{entry.get('id')}: there is no table of captions {_table(entry)} yet")
    return missing


def _as_if_there(entry: dict[str, Any], source: Path) -> dict[str, Any]:
    """The entry with directory and table replaced by existing ones, for checking the rest."""
    there = {**entry, "instance_data_dir": "."} if "instance_data_dir" in entry else dict(entry)
    if _table(entry) is not None:
        there["parquet"] = {**entry["parquet"], "path": source.name}
    return there


def _document(data: Any, translation: Translation) -> str:
    """YAML, with a comment above it that lists every changed key."""
    changed = [line for line in translation.lines if line.verdict != "taken"]
    remarks = [f"# Made of {Path(translation.source).name} by `ltx2 import-simpletuner`."]
    if changed:
        remarks += ["# What was not taken as it stands:", *(f"#   {line.render()}" for line in changed)]
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join(" ".join(remark.splitlines()) for remark in remarks) + "\n\n" + text
