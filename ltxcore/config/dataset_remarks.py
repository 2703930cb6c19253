"""Remarks on dataset keys that are accepted but rounded, or without effect."""

from __future__ import annotations

from collections.abc import Iterator

from ltxcore.config.dataset_kinds import AudioDataset, Media, PictureDataset, VideoDataset
from ltxcore.config.datasets import Datasets
from ltxcore.config.geometry import GEOMETRY

REPLACED_BY_BUCKETS = {
    "resolution",
    "resolution_type",
    "aspect_bucket_alignment",
    "crop",
    "crop_aspect",
    "crop_aspect_buckets",
}
LENGTHS_REPLACED_BY_BUCKETS = {"num_frames", "bucket_strategy", "frame_interval"}


def remarks(datasets: Datasets) -> list[str]:
    """One line for each key that is rounded or has no effect, beginning with the dataset's id."""
    lines = [f"{d.id}: {line}" for d in datasets.media for line in _remarks(d, d.id in datasets.linked_ids)]
    if datasets.text_embeds.cache_dir is not None:
        lines.append(f"{datasets.text_embeds.id}: cache_dir is not used: the workspace holds the store")
    if datasets.audio_only:
        lines.append("only sound is trained: the pictures are zeros of 64x64 and take no part in the loss")
    return lines


def _remarks(dataset: Media, is_linked: bool) -> Iterator[str]:
    for key in ("cache_dir", "cache_dir_vae"):
        if getattr(dataset, key) is not None:
            yield f"{key} is not used: the workspace holds the store"
    if dataset.is_regularisation_data:
        yield "is_regularisation_data: its targets are the base model's answers, so nothing changes there"
    if "instance_prompt" in dataset.model_fields_set and not dataset.trigger:
        yield (
            f"instance_prompt has no effect with caption_strategy {dataset.caption_strategy}; "
            "prepend_instance_prompt: true puts it before the captions"
        )
    if dataset.parquet is not None and dataset.caption_strategy != "parquet":
        yield f"parquet has no effect with caption_strategy {dataset.caption_strategy}"
    elif dataset.parquet is not None:
        for key in ("width_column", "height_column"):
            if getattr(dataset.parquet, key) is not None:
                yield f"parquet.{key} has no effect: probe-media measures every file"
        if dataset.parquet.bbox_column is not None:
            yield "parquet.bbox_column has no effect: no loss looks at boxes"
    if isinstance(dataset, PictureDataset) and dataset.buckets:
        yield from _bucket_remarks(dataset)
    elif (
        isinstance(dataset, PictureDataset) and not dataset.crop and "crop_aspect" in dataset.model_fields_set
    ):
        yield "crop_aspect has no effect without `crop: true`"
    if isinstance(dataset, VideoDataset):
        yield from _video_remarks(dataset)
    if isinstance(dataset, AudioDataset) and is_linked:
        if "duration_interval" in dataset.audio.model_fields_set:
            yield "audio.duration_interval has no effect: its sound gets the length of the clips' frames"
        if "caption_strategy" in dataset.model_fields_set:
            yield "caption_strategy has no effect: the clips that it is linked to have the captions"
        for key in ("repeats", "probability"):
            if key in dataset.model_fields_set:
                yield f"{key} has no effect: the clips that it is linked to are visited"


def _bucket_remarks(dataset: PictureDataset) -> Iterator[str]:
    given = dataset.model_fields_set & REPLACED_BY_BUCKETS
    if isinstance(dataset, VideoDataset):
        given |= {f"video.{key}" for key in dataset.video.model_fields_set & LENGTHS_REPLACED_BY_BUCKETS}
    for key in sorted(given):
        yield f"{key} has no effect: the dataset names its buckets"


def _video_remarks(dataset: VideoDataset) -> Iterator[str]:
    asked, own_lengths = dataset.video.num_frames, dataset.video.bucket_strategy == "resolution_frames"
    if own_lengths and not dataset.buckets and "num_frames" in dataset.video.model_fields_set:
        yield "video.num_frames cuts no clip: with resolution_frames each keeps its own length"
    if not own_lengths and not dataset.buckets and "frame_interval" in dataset.video.model_fields_set:
        yield "video.frame_interval has no effect without bucket_strategy resolution_frames"
    legal = GEOMETRY.legal_frames(asked)
    if asked != legal and not dataset.buckets and not own_lengths:
        yield f"num_frames {asked} is used as {legal}: LTX-2 takes 8n+1 frames"
    if dataset.audio.audio_only:
        return
    if dataset.wants_sound and dataset.audio.channels == 1:
        yield "audio.channels 1 is used as 2: the audio VAE takes stereo, so mono is duplicated"
    for key in ("duration_interval", "truncation_mode"):
        if dataset.wants_sound and key in dataset.audio.model_fields_set:
            yield f"audio.{key} has no effect on clips: their sound is cut at the timestamps of their frames"
