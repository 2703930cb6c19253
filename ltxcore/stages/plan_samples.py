"""From what is known of each file to a sample or a rejection; clips and their sounds meet here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ltxcore.config.dataset_kinds import AudioDataset, ImageDataset, VideoDataset
from ltxcore.config.datasets import Datasets
from ltxcore.media.errors import MediaError
from ltxcore.media.pictures import PictureProbe
from ltxcore.media.plan import LinkedSound, check_duration, plan_picture, plan_sample, plan_sound
from ltxcore.media.probe import MediaProbe
from ltxcore.media.sound_files import SoundProbe
from ltxcore.store.snapshot import Rejection, Sample, SoundFile

if TYPE_CHECKING:
    from ltxcore.stages.probe_media import MediaFile, Memo


def plan_files(
    datasets: Datasets, memo: Memo, files: Sequence[MediaFile]
) -> tuple[list[Sample], list[Rejection]]:
    """A sample or a rejection for each file, in their order; the sound of a clip is part of its sample."""
    rejected: dict[str, str] = {}
    linked = [file for file in files if file.dataset.id in datasets.linked_ids]
    sounds = Sounds(memo, linked, rejected)
    samples = []
    for file in files:
        if file.dataset.id in datasets.linked_ids:
            continue
        try:
            samples.append(_plan(memo, file, sounds))
        except MediaError as error:
            rejected[file.id] = str(error)
    rejected |= sounds.unused(samples)
    rejections = [
        Rejection(
            id=file.id,
            dataset=file.dataset.id,
            path=file.path.relative_to(file.root).as_posix(),
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
        self._by_path: dict[tuple[str, str], list[LinkedSound]] = {}
        self._by_stem: dict[tuple[str, str], list[LinkedSound]] = {}
        self._ids: dict[tuple[str, str], str] = {}
        for file in files:
            try:
                sound = _sound(memo, file)
            except MediaError as error:
                rejected[file.id] = str(error)
                continue
            name = PurePosixPath(sound.file.path)
            self._by_path.setdefault((file.dataset.id, str(name.with_suffix(""))), []).append(sound)
            self._by_stem.setdefault((file.dataset.id, name.stem), []).append(sound)
            self._ids[file.dataset.id, sound.file.path] = file.id

    def of_clip(self, dataset: VideoDataset, clip: str) -> LinkedSound | None:
        """The sound of a clip in the first of its dataset's links that has one.

        A sound fits by its path without extension, or, where no such path is there, by its bare stem.

        Raises:
            MediaError: more than one sound of a dataset fits.
        """
        name = PurePosixPath(clip)
        for link in dataset.linked:
            fitting = self._by_path.get((link, str(name.with_suffix("")))) or self._by_stem.get(
                (link, name.stem), []
            )
            if len(fitting) > 1:
                names = ", ".join(sound.file.path for sound in fitting)
                raise MediaError(f"has more than one sound in {link}: {names}; keep one of them")
            if fitting:
                return fitting[0]
        return None

    def unused(self, samples: Sequence[Sample]) -> dict[str, str]:
        """Id -> why, of the sounds that no sample has."""
        linked = [s.audio.sound for s in samples if s.audio is not None and s.audio.sound is not None]
        used = {(sound.dataset, sound.path) for sound in linked}
        return {
            file_id: "no clip that is taken has its name"
            for key, file_id in self._ids.items()
            if key not in used
        }


def _plan(memo: Memo, file: MediaFile, sounds: Sounds) -> Sample:
    media_id, found = _known(memo, file)
    dataset = file.dataset
    if isinstance(dataset, ImageDataset):
        picture = PictureProbe.model_validate(found)
        return plan_picture(dataset, file.root, file.path, media_id, picture)
    if isinstance(dataset, AudioDataset) or dataset.audio.audio_only:
        sound = SoundProbe.model_validate(found)
        return plan_sound(dataset, dataset.audio, file.root, file.path, media_id, sound)
    clip = file.path.relative_to(file.root).as_posix()
    probe = MediaProbe.model_validate(found)
    linked = sounds.of_clip(dataset, clip)
    return plan_sample(dataset, file.root, file.path, media_id, probe, linked)


def _sound(memo: Memo, file: MediaFile) -> LinkedSound:
    if not isinstance(file.dataset, AudioDataset):
        raise TypeError(f"{file.id} is in no audio dataset")
    media_id, found = _known(memo, file)
    probe, settings = SoundProbe.model_validate(found), file.dataset.audio
    check_duration(settings, probe.duration_s)
    path = file.path.relative_to(file.root).as_posix()
    return LinkedSound(SoundFile(dataset=file.dataset.id, path=path, media_id=media_id), probe, settings)


def _known(memo: Memo, file: MediaFile) -> tuple[str, object]:
    """Media id and probe of a file.

    Raises:
        MediaError: it could not be probed, and why.
    """
    known = memo.look_up(file)
    if known is None:
        raise MediaError("changed while it was being looked at; run probe-media again")
    media_id, record = known
    if "error" in record:
        raise MediaError(record["error"])
    return media_id, record["probe"]
