"""From what is known of each file to a sample or a rejection; clips and their sounds meet here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltxcore.config.dataset_kinds import AudioDataset, ConditioningDataset, ImageDataset, VideoDataset
from ltxcore.config.datasets import Datasets
from ltxcore.media.discover import recorded_path
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import (
    LinkedSound,
    check_duration,
    make_sample,
    select_picture,
    select_sound,
)
from ltxcore.media.pictures import PictureProbe
from ltxcore.media.probe import MediaProbe
from ltxcore.media.sound_files import SoundProbe
from ltxcore.stages.probe_media.conditioning_files import NOBODYS, ConditioningFiles
from ltxcore.stages.probe_media.files_by_name import Named, NamedFiles
from ltxcore.store.snapshot import Rejection, Sample, SoundFile

if TYPE_CHECKING:
    from ltxcore.stages.probe_media.media_files import MediaFile
    from ltxcore.stages.probe_media.memo import Memo


def make_samples(
    datasets: Datasets, memo: Memo, files: Sequence[MediaFile]
) -> tuple[list[Sample], list[Rejection]]:
    """A sample or a rejection for each file, in their order; the sound of a clip is part of its sample."""
    rejected: dict[str, str] = {}
    linked = [file for file in files if file.dataset.id in datasets.linked_ids]
    sounds = Sounds(memo, linked, rejected)
    conditioning = ConditioningFiles(datasets, memo, files, rejected)
    samples = []
    for file in files:
        if file.dataset.id in datasets.linked_ids or isinstance(file.dataset, ConditioningDataset):
            continue
        try:
            samples.append(conditioning.join(_plan(memo, file, sounds), file))
        except MediaError as error:
            rejected[file.id] = str(error)
    rejected |= sounds.unused(samples) | conditioning.unused(samples)
    rejections = [
        Rejection(
            id=file.id,
            dataset=file.dataset.id,
            path=recorded_path(file.root, file.path),
            reason=rejected[file.id],
        )
        for file in files
        if file.id in rejected
    ]
    return samples, rejections


class Sounds:
    """The files of linked audio datasets, found by the name of a clip."""

    def __init__(self, memo: Memo, files: Sequence[MediaFile], rejected: dict[str, str]) -> None:
        """Take in the files that can be used; why the others cannot is put into `rejected`."""
        self._named: NamedFiles[LinkedSound] = NamedFiles()
        self._ids: dict[tuple[str, str], str] = {}
        for file in files:
            try:
                sound = _sound(memo, file)
            except MediaError as error:
                rejected[file.id] = str(error)
                continue
            self._named.add(file.dataset.id, sound.file.path, sound)
            self._ids[file.dataset.id, sound.file.path] = file.id

    def of_clip(self, dataset: VideoDataset, clip: str) -> Named[LinkedSound] | None:
        """The sound of a clip in the first of its dataset's links that has one.

        Raises:
            MediaError: more than one sound of a dataset fits.
        """
        for link in dataset.linked:
            if (sound := self._named.of_clip(link, clip, "sound")) is not None:
                return sound
        return None

    def unused(self, samples: Sequence[Sample]) -> dict[str, str]:
        """Id -> why, of the sounds that no sample has."""
        linked = [s.audio.sound for s in samples if s.audio is not None and s.audio.sound is not None]
        used = {(sound.dataset, sound.path) for sound in linked}
        return {file_id: NOBODYS for key, file_id in self._ids.items() if key not in used}


def _plan(memo: Memo, file: MediaFile, sounds: Sounds) -> Sample:
    media_id, found = memo.require(file)
    dataset = file.dataset
    if isinstance(dataset, ConditioningDataset):
        raise TypeError(f"{file.id} belongs to a clip and is none")
    if isinstance(dataset, ImageDataset):
        picture = PictureProbe.model_validate(found)
        return select_picture(dataset, file.bounds, file.path, media_id, picture)
    if isinstance(dataset, AudioDataset) or dataset.audio.audio_only:
        sound = SoundProbe.model_validate(found)
        return select_sound(dataset, dataset.audio, file.bounds, file.path, media_id, sound)
    clip = file.path.relative_to(file.root).as_posix()
    probe = MediaProbe.model_validate(found)
    linked = sounds.of_clip(dataset, clip)
    if linked is None:
        return make_sample(dataset, file.bounds, file.path, media_id, probe)
    sample = make_sample(dataset, file.bounds, file.path, media_id, probe, linked.file)
    return sample.model_copy(update={"notes": (*sample.notes, linked.note)}) if linked.note else sample


def _sound(memo: Memo, file: MediaFile) -> LinkedSound:
    if not isinstance(file.dataset, AudioDataset):
        raise TypeError(f"{file.id} is in no audio dataset")
    media_id, found = memo.require(file)
    probe, settings = SoundProbe.model_validate(found), file.dataset.audio
    check_duration(settings, probe.duration_s)
    path = file.path.relative_to(file.root).as_posix()
    return LinkedSound(SoundFile(dataset=file.dataset.id, path=path, media_id=media_id), probe, settings)
