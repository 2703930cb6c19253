"""The dataset file: a list of datasets in the seed's keys, and what a snapshot needs of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.base import KeyPath, Strict, parse, read_document
from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.errors import ConfigError, Problem, nearest


class VideoSettings(Strict):
    """The `video` block: frames, and how clips are grouped."""

    num_frames: PositiveInt = Field(125, description="Frames of a sample; rounded down to 8n+1.")
    min_frames: PositiveInt | None = Field(
        None, description="Clips with fewer frames at frame_rate are dropped. Default: num_frames."
    )
    max_frames: PositiveInt | None = Field(None, description="Clips with more frames are dropped.")
    frame_rate: float = Field(25.0, gt=0, le=240, description="Frames a second of every sample.")
    bucket_strategy: Literal["aspect_ratio", "resolution_frames"] = "aspect_ratio"
    frame_interval: PositiveInt = Field(1, description="resolution_frames: lengths are floored to this.")

    @model_validator(mode="after")
    def _ordered(self) -> VideoSettings:
        if self.min_frames and self.max_frames and self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is more than max_frames {self.max_frames}")
        if self.bucket_strategy == "aspect_ratio" and self.shortest > (self.max_frames or self.shortest):
            raise ValueError(f"max_frames {self.max_frames} is less than the {self.shortest} frames needed")
        return self

    @property
    def shortest(self) -> int:
        """The fewest frames a clip may have."""
        return self.num_frames if self.min_frames is None else self.min_frames


class AudioSettings(Strict):
    """The `audio` block of a video dataset."""

    auto_split: bool = Field(True, description="Take the sound of the clips for training.")
    sample_rate: Literal[16000] = Field(16000, description="The audio VAE's own rate.")
    channels: Literal[1, 2] = Field(2, description="The audio VAE gets stereo always; mono is duplicated.")
    duration_interval: float = Field(
        3.0, gt=0, description="Grouping of free audio; a clip's sound has its length."
    )


class VideoDataset(Strict):
    """A directory of clips with captions."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    type: Literal["local"] = "local"
    dataset_type: Literal["video"]
    instance_data_dir: str = Field(min_length=1, description="Relative to the dataset file.")
    caption_strategy: Literal["textfile", "filename", "instanceprompt", "instance_prompt"] = "textfile"
    disable_multiline_split: bool = Field(False, description="textfile: the whole file is one caption.")
    instance_prompt: str | None = None
    prepend_instance_prompt: bool = False
    resolution: float = Field(
        512, gt=0, description="An edge in pixels, or megapixels where the type is area."
    )
    resolution_type: Literal["pixel", "area", "pixel_area"] = "pixel_area"
    aspect_bucket_alignment: Literal[32, 64] = 32
    crop_style: Literal["center", "random", "corner"] = "center"
    minimum_aspect_ratio: float | None = Field(None, gt=0)
    maximum_aspect_ratio: float | None = Field(None, gt=0)
    repeats: int = Field(0, ge=0, description="Extra passes: n gives n + 1 visits an epoch.")
    probability: float = Field(1.0, gt=0, le=1, description="The share of visits that are kept in an epoch.")
    disabled: bool = False
    video: VideoSettings = Field(default_factory=VideoSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)

    @model_validator(mode="after")
    def _prompt_given(self) -> VideoDataset:
        wants = self.caption_strategy in ("instanceprompt", "instance_prompt") or self.prepend_instance_prompt
        if wants and not (self.instance_prompt or "").strip():
            raise ValueError(f"caption_strategy {self.caption_strategy} needs a text in `instance_prompt`")
        low, high = self.minimum_aspect_ratio, self.maximum_aspect_ratio
        if low and high and low > high:
            raise ValueError(f"minimum_aspect_ratio {low} is more than maximum_aspect_ratio {high}")
        return self


class TextEmbedsDataset(Strict):
    """The seed's entry for the caption cache. The store keys captions by content; it only has to be there."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    type: Literal["local"] = "local"
    dataset_type: Literal["text_embeds"]
    default: bool = False
    cache_dir: str | None = Field(None, description="Accepted and not used: the workspace holds the store.")
    disabled: bool = False


Entry = VideoDataset | TextEmbedsDataset
KINDS: dict[str, type[VideoDataset] | type[TextEmbedsDataset]] = {
    "video": VideoDataset,
    "text_embeds": TextEmbedsDataset,
}

LEVELS_ABOVE_JSON = 2
NO_DEFAULTS = DataDefaults()


class Datasets(Strict):
    """The datasets of one file, checked against each other and against the disk."""

    source: Path
    video: tuple[VideoDataset, ...]
    text_embeds: TextEmbedsDataset

    def directory(self, dataset: VideoDataset) -> Path:
        """The directory of a dataset, taken relative to the file that names it."""
        return find_directory(self.source, dataset.instance_data_dir)


def find_directory(source: Path, name: str) -> Path:
    """The directory that a dataset file means.

    A multidatabackend.json lies in `config/` or deeper and names directories from the project's root, so
    for JSON the directories above the file's own are looked into as well, the nearest first.
    """
    wanted = Path(name).expanduser()
    beside = (source.parent / wanted).resolve()
    if source.suffix != ".json" or wanted.is_absolute():
        return beside
    above = source.resolve().parents[: 1 + LEVELS_ABOVE_JSON]
    return next((found for level in above if (found := (level / wanted).resolve()).is_dir()), beside)


def load_datasets(path: Path, defaults: DataDefaults = NO_DEFAULTS) -> Datasets:
    """Read a dataset file (YAML, or the seed's multidatabackend.json).

    `defaults` holds for datasets that do not say it themselves.

    Raises:
        ConfigError: an unknown key, a wrong type, two datasets of one id, a missing directory, no
            text_embeds, or nothing to train on; with file, line, key and what to write instead.
    """
    data, lines = read_document(path)
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
    problems = [*_same_ids(entries, lines), *_roles(entries)]
    if problems:
        raise ConfigError(source, problems)
    videos = tuple(e for e in entries if isinstance(e, VideoDataset) and not e.disabled)
    text = next(e for e in entries if isinstance(e, TextEmbedsDataset) and not e.disabled)
    datasets = Datasets(source=path.resolve(), video=videos, text_embeds=text)
    missing = [
        Problem(
            f"{entries.index(v)}.instance_data_dir",
            f"there is no directory {datasets.directory(v)}",
            lines.get((entries.index(v), "instance_data_dir")),
        )
        for v in videos
        if not datasets.directory(v).is_dir()
    ]
    if missing:
        raise ConfigError(source, missing)
    return datasets


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


def _roles(entries: list[Entry]) -> list[Problem]:
    problems = []
    if not any(isinstance(e, TextEmbedsDataset) and not e.disabled for e in entries):
        problems.append(
            Problem("", "has no text_embeds dataset; add `- {id: text-embeds, dataset_type: text_embeds}`")
        )
    if not any(isinstance(e, VideoDataset) and not e.disabled for e in entries):
        problems.append(
            Problem("", "has no video dataset that is not disabled, so there is nothing to train on")
        )
    return problems
