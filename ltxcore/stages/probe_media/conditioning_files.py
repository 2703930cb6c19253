"""The references, masks and reference sounds of clips: conditioning datasets' files of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ltxcore.config.dataset_kinds import ConditioningDataset
from ltxcore.config.datasets import Datasets
from ltxcore.media.conditioning_files import NamedConditioningFile, conditioning_clip, reference_sound
from ltxcore.media.errors import MediaError
from ltxcore.media.pictures import PictureProbe
from ltxcore.media.probe import MediaProbe
from ltxcore.media.sound_files import SoundProbe
from ltxcore.stages.probe_media.files_by_name import NamedFiles
from ltxcore.store.snapshot import ConditioningClip, Kind, Sample, SoundSelection

if TYPE_CHECKING:
    from ltxcore.stages.probe_media.media_files import MediaFile
    from ltxcore.stages.probe_media.memo import Memo

PROBED: Mapping[Kind, type[MediaProbe | PictureProbe | SoundProbe]] = {
    "image": PictureProbe,
    "video": MediaProbe,
    "audio": SoundProbe,
}
NOBODYS = "no accepted clip has this file's name"


class ConditioningFiles:
    """The files of all conditioning datasets."""

    def __init__(
        self, datasets: Datasets, memo: Memo, files: Sequence[MediaFile], rejected: dict[str, str]
    ) -> None:
        """Take in the files that can be used; why the others cannot is put into `rejected`."""
        self._datasets = datasets
        self._named: NamedFiles[NamedConditioningFile] = NamedFiles()
        self._ids: list[str] = []
        for file in files:
            if not isinstance(file.dataset, ConditioningDataset):
                continue
            try:
                media_id, found = memo.require(file)
            except MediaError as error:
                rejected[file.id] = str(error)
                continue
            kind = PROBED[file.kind]
            path = file.path.relative_to(file.root).as_posix()
            usable = NamedConditioningFile(file.id, path, media_id, kind.model_validate(found))
            self._named.add(file.dataset.id, path, usable)
            self._ids.append(file.id)

    def join(self, clip: Sample, file: MediaFile) -> Sample:
        """The clip with what its dataset's `conditioning_data` holds for it.

        Raises:
            MediaError: one of these datasets has nothing of its name, more than one file, or one that does
                not fit.
        """
        if isinstance(file.dataset, ConditioningDataset):
            raise TypeError(f"{file.id} is no clip")
        found: list[ConditioningClip] = []
        sound: SoundSelection | None = None
        notes: list[str] = []
        for dataset in self._datasets.conditioning_of(file.dataset):
            what = dataset.conditioning_type
            named = self._named.of_clip(dataset.id, clip.path, what)
            if named is None:
                stem = PurePosixPath(clip.path).with_suffix("")
                raise MediaError(f"has no {what} in {dataset.id}: expected {stem}.* there")
            if dataset.holds_sounds:
                sound = reference_sound(dataset, named.file)
            else:
                found.append(conditioning_clip(dataset, named.file, clip))
            notes += [named.note] if named.note else []
        if not found and sound is None:
            return clip
        references = [shown for shown in found if shown.purpose == "reference"]
        belonging: dict[str, Any] = {shown.purpose: shown for shown in found if shown.measured}
        if references:
            belonging |= {"reference": references[0], "further_references": tuple(references[1:])}
        if sound is not None:
            belonging["reference_sound"] = sound
        return clip.model_copy(update={**belonging, "notes": (*clip.notes, *notes)})

    def unused(self, samples: Sequence[Sample]) -> dict[str, str]:
        """Id -> why, of the files that no sample has."""
        used = {condition.id for sample in samples for condition in sample.conditioning_clips}
        beside = [s.reference_sound.sound for s in samples if s.reference_sound is not None]
        used |= {f"{sound.dataset}/{sound.path}" for sound in beside if sound is not None}
        return {file_id: NOBODYS for file_id in self._ids if file_id not in used}
