"""The rules for the keys of multidatabackend.json, one for each, and their application."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel

from ltxcore.config.base import KeyPath
from ltxcore.config.caption_shuffle_settings import CaptionShuffle
from ltxcore.config.dataset_kinds import KINDS
from ltxcore.config.errors import nearest
from ltxcore.config.simpletuner.translation import (
    Rule,
    Translation,
    apply,
    moot,
    normal,
    not_yet,
    refuse,
    take,
    unknown,
)
from ltxcore.config.simpletuner.values import as_reference, channels, flag, kept_frames, only_the_prompt

CACHES: Final = ("image_embeds", "conditioning_image_embeds")
"""Kinds of datasets that hold nothing but another one's cache."""
NOT_LOCAL: Final = "data is read from a local directory; write `local`"
STORE: Final = "the workspace holds the store, keyed by content"
MEASURED: Final = "probe-media measures every file"
ONE_RESAMPLING: Final = "a picture of any size is resampled once, to its bucket"
ONLY_READ: Final = "a dataset's directory is only read; the report says what is rejected and why"
ALL_THE_TIME: Final = "it is used from the first step to the last"
BLOCKS: Final = ("video", "audio", "parquet", "caption_shuffle")
OF_A_CACHE: Final = (
    "type",
    *(f"aws_{key}" for key in ("bucket_name", "region_name", "endpoint_url", "access_key_id")),
    *("aws_secret_access_key", "aws_data_prefix"),
)
"""Where a cache of captions is kept."""
LAST: Final = "only_instance_prompt"
"""Overrides caption_strategy, wherever it stands."""

DATASETS: Final[Mapping[str, Rule]] = {
    "id": take("id"),
    "type": refuse(NOT_LOCAL, {"local": take("type")}),
    "dataset_type": take("dataset_type"),
    "default": take("default"),
    "disabled": take("disabled", convert=flag),
    "disable": take("disabled", convert=flag),
    "instance_data_dir": take("instance_data_dir"),
    "cache_dir": moot(STORE),
    "cache_dir_vae": moot(STORE),
    "text_embeds": moot(STORE),
    "image_embeds": moot(STORE),
    "conditioning_image_embeds": moot(STORE),
    "cache_dir_conditioning_image_embeds": moot(STORE),
    "conditioning_image_embed_batch_size": moot(STORE),
    "hash_filenames": moot(STORE),
    "preserve_data_backend_cache": moot(STORE),
    "write_batch_size": moot(STORE),
    "text_encoder_batch_size": moot(STORE),
    "text_cache_ondemand": moot(STORE),
    "text_cache_disable": moot(STORE),
    "vae_cache_ondemand": moot(STORE),
    "vae_cache_disable": moot(STORE),
    "vae_cache_clear_each_epoch": moot("a clip has one crop, drawn from its content, in every epoch"),
    "skip_file_discovery": moot("files are found by a stat each; nothing is read twice"),
    "metadata_backend": moot(MEASURED),
    "metadata_update_interval": moot(MEASURED),
    "scan_for_errors": moot(MEASURED),
    "delete_unwanted_images": moot(ONLY_READ),
    "delete_problematic_images": moot(ONLY_READ),
    "delete_nsfw_images": moot(ONLY_READ),
    "caption_strategy": take("caption_strategy"),
    "disable_multiline_split": take("disable_multiline_split"),
    "instance_prompt": take("instance_prompt"),
    "prepend_instance_prompt": take("prepend_instance_prompt"),
    LAST: take(
        "caption_strategy",
        convert=only_the_prompt,
        off=(False,),
    ),
    **{f"caption_shuffle.{name}": take(f"caption_shuffle.{name}") for name in CaptionShuffle.model_fields},
    "caption_weights": take("caption_weights"),
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
    "buckets": take("buckets"),
    "follow_links": take("follow_links"),
    "max_caption_kib": take("max_caption_kib"),
    "max_megapixels": take("max_megapixels"),
    "max_upscale_threshold": not_yet("any of crop_aspect_buckets may be chosen; minimum_image_size works"),
    "minimum_image_size": take("minimum_image_size"),
    "maximum_image_size": moot(ONE_RESAMPLING),
    "target_downsample_size": moot(ONE_RESAMPLING),
    "repeats": take("repeats"),
    "probability": take("probability"),
    "max_num_samples": not_yet("all its files are used"),
    "start_epoch": not_yet(ALL_THE_TIME, off=(0, 1)),
    "start_step": not_yet(ALL_THE_TIME, off=(0, 1)),
    "end_epoch": not_yet(ALL_THE_TIME),
    "end_step": not_yet(ALL_THE_TIME),
    "timestep_sampling_offset": not_yet("its timesteps are drawn as all others are", off=(0,)),
    "slider_strength": not_yet("its clips are trained as all others are", off=(0,)),
    "s2v_datasets": take("s2v_datasets"),
    "conditioning_data": take("conditioning_data"),
    "conditioning_type": refuse(
        "is not a known type; known: reference_strict, reference_loose, mask, controlnet",
        {
            "mask": take("conditioning_type"),
            "loss_mask": take("conditioning_type"),
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
    "conditioning": not_yet(
        "nothing is made from the clips; make the references, and name their dataset in `conditioning_data`"
    ),
    "source_dataset_id": moot("the clips' `conditioning_data` names this dataset"),
    "reference_downscale_factor": take("reference_downscale_factor"),
    "reference_temporal_scale_factor": take("reference_temporal_scale_factor"),
    "is_regularisation_data": take("is_regularisation_data"),
    "is_regularization_data": take("is_regularisation_data"),
    "video.track": take("video.track"),
    "video.num_frames": take("video.num_frames", convert=kept_frames),
    "video.min_frames": take("video.min_frames"),
    "video.max_frames": take("video.max_frames"),
    "video.frame_rate": take("video.frame_rate"),
    "video.bucket_strategy": take("video.bucket_strategy"),
    "video.frame_interval": take("video.frame_interval"),
    "video.is_i2v": moot("the recipe's `conditioning` says how often the first frame is given"),
    "audio.track": take("audio.track"),
    "audio.auto_split": take("audio.auto_split"),
    "audio.source_from_video": moot("audio.auto_split says it"),
    "audio.target_resolution": moot("zeros of 64x64 stand beside sound alone"),
    "audio.bucket_strategy": refuse(
        "sound is grouped by its duration; write `duration`",
        {"duration": moot("sound is always grouped by its duration")},
    ),
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
        message = f"must be a list of datasets; found a {type(data).__name__}"
        translation.tell("", "refused", message, 1)
        return translation
    for number, item in enumerate(data):
        if isinstance(item, dict):
            _translate(translation, number, item, source, dict(lines or {}))
        else:
            message = f"must be a dataset with `id` and `dataset_type`; found {item!r}"
            translation.tell(str(number), "refused", message, (lines or {}).get((number,)))
    return translation


def _translate(
    translation: Translation, number: int, item: Mapping[str, Any], source: Path, lines: dict[KeyPath, int]
) -> None:
    name, kind = item.get("id", number), item.get("dataset_type")
    if kind not in KINDS:
        line = lines.get((number, "dataset_type"))
        if kind in CACHES:
            translation.tell(f"{name}.dataset_type", "moot", f"a {kind} dataset is left out: {STORE}", line)
        else:
            found = "is required and was not given" if kind is None else f"{kind!r} is not a kind of dataset"
            translation.tell(f"{name}.dataset_type", "refused", f"{found}; {nearest(str(kind), KINDS)}", line)
        return
    at = (len(translation.data),)
    entry: dict[str, Any] = {}
    translation.data.append(entry)
    translation.places[at] = lines.get((number,), 1)
    flat = _flat(item)
    for key, value in sorted(flat.items(), key=lambda pair: pair[0] == LAST):
        parts = tuple(key.split("."))
        line = lines.get((number, *parts))
        rule = DATASETS.get(key)
        if kind == "text_embeds" and key in OF_A_CACHE and value != "local":
            rule = moot(STORE)
        if rule is None:
            translation.tell(f"{name}.{key}", "refused", unknown(key, DATASETS), line)
        elif rule.verdict == "taken" and not all(_has(KINDS[kind], path) for path in rule.to):
            message = f"a {kind} dataset has no use for it yet, and is read as if it were not there"
            translation.tell(f"{name}.{key}", "not yet", message, line)
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
