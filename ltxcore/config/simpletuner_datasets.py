"""The rules for the keys of multidatabackend.json, one for each, and their application."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel

from ltxcore.config.base import KeyPath
from ltxcore.config.datasets import KINDS
from ltxcore.config.errors import nearest
from ltxcore.config.simpletuner import Rule, Translation, apply, moot, normal, refuse, take, unknown
from ltxcore.config.simpletuner_values import as_reference, channels, flag, kept_frames

KNOWN_KINDS: Final = ("video", "audio", "image", "conditioning", "text_embeds")
STORE: Final = "the workspace holds the store, keyed by content"
MEASURED: Final = "probe-media measures every file"
ONE_RESAMPLING: Final = "a picture of any size is resampled once, to its bucket"
BLOCKS: Final = ("video", "audio", "parquet")

DATASETS: Final[Mapping[str, Rule]] = {
    "id": take("id"),
    "type": refuse("data is read from a local directory; write `local`", {"local": take("type")}),
    "dataset_type": take("dataset_type"),
    "default": take("default"),
    "disabled": take("disabled", convert=flag),
    "disable": take("disabled", convert=flag),
    "instance_data_dir": take("instance_data_dir"),
    "cache_dir": moot(STORE),
    "cache_dir_vae": moot(STORE),
    "text_embeds": moot(STORE),
    "image_embeds": moot(STORE),
    "hash_filenames": moot(STORE),
    "preserve_data_backend_cache": moot(STORE),
    "vae_cache_clear_each_epoch": moot("a clip has one crop, drawn from its content, in every epoch"),
    "skip_file_discovery": moot("files are found by a stat each; nothing is read twice"),
    "metadata_backend": moot(MEASURED),
    "caption_strategy": take("caption_strategy"),
    "disable_multiline_split": take("disable_multiline_split"),
    "instance_prompt": take("instance_prompt"),
    "prepend_instance_prompt": take("prepend_instance_prompt"),
    "only_instance_prompt": refuse(
        "is not read here; write `caption_strategy: instanceprompt`",
        {False: moot("the captions are what caption_strategy says")},
    ),
    "caption_filter_list": take("caption_filter_list"),
    "resolution": take("resolution"),
    "resolution_type": take("resolution_type"),
    "aspect_bucket_alignment": take("aspect_bucket_alignment"),
    "crop": take("crop"),
    "crop_style": take("crop_style"),
    "crop_aspect": take("crop_aspect"),
    "minimum_aspect_ratio": take("minimum_aspect_ratio"),
    "maximum_aspect_ratio": take("maximum_aspect_ratio"),
    "crop_aspect_buckets": take("crop_aspect_buckets"),
    "minimum_image_size": take("minimum_image_size"),
    "maximum_image_size": moot(ONE_RESAMPLING),
    "target_downsample_size": moot(ONE_RESAMPLING),
    "repeats": take("repeats"),
    "probability": take("probability"),
    "s2v_datasets": take("s2v_datasets"),
    "conditioning_data": take("conditioning_data"),
    "conditioning_type": refuse(
        "is not a known type; known: reference_strict, reference_loose, mask, controlnet",
        {
            "mask": take("conditioning_type"),
            **dict.fromkeys(
                ("reference", "reference_strict"), take("conditioning_type", convert=as_reference)
            ),
            **dict.fromkeys(
                ("reference_loose", "controlnet"),
                refuse(
                    "references show the clip's own picture here; write reference_strict, or remove the set"
                ),
            ),
        },
    ),
    "is_regularisation_data": take("is_regularisation_data"),
    "video.num_frames": take("video.num_frames", convert=kept_frames),
    "video.min_frames": take("video.min_frames"),
    "video.max_frames": take("video.max_frames"),
    "video.frame_rate": take("video.frame_rate"),
    "video.bucket_strategy": take("video.bucket_strategy"),
    "video.frame_interval": take("video.frame_interval"),
    "audio.auto_split": take("audio.auto_split"),
    "audio.sample_rate": take("audio.sample_rate"),
    "audio.channels": take("audio.channels", convert=channels),
    "audio.duration_interval": take("audio.duration_interval"),
    "audio.truncation_mode": take("audio.truncation_mode"),
    "audio.min_duration_seconds": take("audio.min_duration_seconds"),
    "audio.max_duration_seconds": take("audio.max_duration_seconds"),
    "audio.audio_only": take("audio.audio_only"),
    "audio.allow_zero_audio": take("audio.allow_zero_audio"),
    "parquet.path": take("parquet.path"),
    "parquet.caption_column": take("parquet.caption_column"),
    "parquet.filename_column": take("parquet.filename_column"),
    "parquet.fallback_caption_column": take("parquet.fallback_caption_column"),
    "parquet.identifier_includes_extension": take("parquet.identifier_includes_extension", convert=flag),
    "parquet.width_column": moot(MEASURED),
    "parquet.height_column": moot(MEASURED),
    "parquet.bbox_column": moot("no loss looks at boxes"),
}


def translate_datasets(data: Any, source: Path, lines: Mapping[KeyPath, int] | None = None) -> Translation:
    """A multidatabackend.json as the plain data of a dataset file, with a line for every key."""
    translation = Translation(str(source), [])
    if not isinstance(data, list):
        told = f"must be a list of datasets; found a {type(data).__name__}"
        translation.tell("", "refused", told, 1)
        return translation
    for number, item in enumerate(data):
        if isinstance(item, dict):
            _translate(translation, number, item, source, dict(lines or {}))
        else:
            told = f"must be a dataset with `id` and `dataset_type`; found {item!r}"
            translation.tell(str(number), "refused", told, (lines or {}).get((number,)))
    return translation


def _translate(
    translation: Translation, number: int, item: Mapping[str, Any], source: Path, lines: dict[KeyPath, int]
) -> None:
    name, kind = item.get("id", number), item.get("dataset_type")
    if kind not in KINDS:
        line = lines.get((number, "dataset_type"))
        if kind in KNOWN_KINDS:
            translation.tell(f"{name}.dataset_type", "not yet", f"this {kind} dataset is left out", line)
        else:
            told = f"{kind!r} is not a kind of dataset; {nearest(str(kind), KNOWN_KINDS)}"
            translation.tell(f"{name}.dataset_type", "refused", told, line)
        return
    at = (len(translation.data),)
    entry: dict[str, Any] = {}
    translation.data.append(entry)
    translation.places[at] = lines.get((number,), 1)
    flat = _flat(item)
    for key, value in flat.items():
        parts = tuple(key.split("."))
        line = lines.get((number, *parts))
        rule = DATASETS.get(key)
        if rule is None:
            translation.tell(f"{name}.{key}", "refused", unknown(key, DATASETS), line)
        elif rule.verdict == "taken" and not all(_has(KINDS[kind], path) for path in rule.to):
            told = f"a {kind} dataset has no use for it yet, and is read as if it were not there"
            translation.tell(f"{name}.{key}", "not yet", told, line)
        else:
            for path, found in apply(
                translation, rule, f"{name}.{key}", value, flat, source.parent, line
            ).items():
                *block, last = path.split(".")
                (entry.setdefault(block[0], {}) if block else entry)[last] = found
                translation.places.update({(*at, *block): line or 1, (*at, *block, last): line or 1})


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    """`video: {num_frames: 61}` as `video.num_frames`: 61."""
    flat: dict[str, Any] = {}
    for key, value in item.items():
        if key in BLOCKS and isinstance(value, dict):
            flat |= {f"{key}.{inner}": normal(found) for inner, found in value.items()}
        else:
            flat[key] = normal(value)
    return flat


def _has(model: type[BaseModel], key: str) -> bool:
    """Whether a kind of dataset knows a key, also one inside a block."""
    name, _, inner = key.partition(".")
    if name not in model.model_fields:
        return False
    if not inner:
        return True
    kind = model.model_fields[name].annotation
    blocks = [kind, *get_args(kind)]
    return any(inner in b.model_fields for b in blocks if isinstance(b, type) and issubclass(b, BaseModel))
