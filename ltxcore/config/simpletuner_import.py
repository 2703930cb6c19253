"""A config.json and a multidatabackend.json, written as this project's recipe and dataset file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ltxcore.config.base import parse, read_document
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.datasets import find_directory, parse_datasets
from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.recipe import Recipe
from ltxcore.config.simpletuner import Translation
from ltxcore.config.simpletuner_datasets import translate_datasets
from ltxcore.config.simpletuner_training import translate_config

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
            told = f"must be an object of keys and values; found a {type(settings).__name__}"
            raise ConfigError(str(config), [Problem("", told, 1)])
        entries, entry_lines = read_document(datasets)
        return cls(
            translate_config(settings, config, settings_lines),
            translate_datasets(entries, datasets, entry_lines),
        )

    def write(self, directory: Path, strict: bool = False) -> tuple[list[Path], list[str]]:
        """Write recipe.yaml and datasets.yaml into a directory; returns them, and what is still missing.

        Directories of clips that are not there yet are told, not refused: the data may come later.

        Raises:
            ConfigError: a key is refused (with `strict` also one whose feature is not built), or the
                values do not fit together. Nothing is written then.
        """
        self.config.check(strict)
        self.datasets.check(strict)
        recipe = self._recipe()
        entries = self._entries(directory)
        missing = _check_entries(entries, self.datasets)
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

    def _entries(self, directory: Path) -> list[dict[str, Any]]:
        """The datasets with what config.json says for all, and their directories as seen from here."""
        defaults = DataDefaults.model_validate(self.config.data.get("data", {}))
        entries = []
        for given in self.datasets.data:
            entry = defaults.fill(given)
            for key, value in entry.items():
                if given.get(key) != value:
                    told = f"{value!r}, from {Path(self.config.source).name}"
                    self.datasets.tell(f"{given.get('id')}.{key}", "added", told)
            if isinstance(given.get("instance_data_dir"), str):
                entry = {**entry, "instance_data_dir": self._place(given, directory)}
            entries.append(entry)
        return entries

    def _place(self, entry: dict[str, Any], directory: Path) -> str:
        name = entry["instance_data_dir"]
        found = find_directory(Path(self.datasets.source), name)
        if Path(name).expanduser().is_absolute():
            return str(name)
        seen_from_here = os.path.relpath(found, directory.resolve())
        if seen_from_here != os.path.normpath(name):
            self.datasets.tell(
                f"{entry.get('id')}.instance_data_dir",
                "renamed",
                f"{seen_from_here}, as seen from {directory}",
            )
            return seen_from_here
        return str(name)


def _check_entries(entries: list[dict[str, Any]], datasets: Translation) -> list[str]:
    """What is still missing for the datasets; raises where they cannot be used at all."""
    there = [{**e, "instance_data_dir": "."} if "instance_data_dir" in e else e for e in entries]
    parse_datasets(there, datasets.places, Path(datasets.source))
    return [
        f"{entry.get('id')}: there is no directory {directory} yet"
        for entry in datasets.data
        if "instance_data_dir" in entry
        and not (directory := find_directory(Path(datasets.source), entry["instance_data_dir"])).is_dir()
    ]


def _document(data: Any, translation: Translation) -> str:
    """YAML, with what was not taken as it stands told above it."""
    told = [line for line in translation.lines if line.verdict != "taken"]
    remarks = [f"# Made of {Path(translation.source).name} by `ltx2 import-simpletuner`."]
    if told:
        remarks += ["# What was not taken as it stands:", *(f"#   {line.render()}" for line in told)]
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join(" ".join(remark.splitlines()) for remark in remarks) + "\n\n" + text
