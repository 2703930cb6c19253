"""The references and masks of clips: files of conditioning datasets that have their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ltxcore.config.dataset_kinds import ConditioningDataset
from ltxcore.config.datasets import Datasets
from ltxcore.media.companions import CompanionFile, plan_companion
from ltxcore.media.errors import MediaError
from ltxcore.media.pictures import PictureProbe
from ltxcore.media.probe import MediaProbe
from ltxcore.stages.named_files import NamedFiles
from ltxcore.store.snapshot import Companion, Sample

if TYPE_CHECKING:
    from ltxcore.stages.probe_media import MediaFile, Memo

NOBODYS = "no clip that is taken has its name"


class Companions:
    """The files of all conditioning datasets."""

    def __init__(
        self, datasets: Datasets, memo: Memo, files: Sequence[MediaFile], rejected: dict[str, str]
    ) -> None:
        """Take in the files that can be used; why the others cannot is put into `rejected`."""
        self._datasets = datasets
        self._named: NamedFiles[CompanionFile] = NamedFiles()
        self._ids: list[str] = []
        for file in files:
            if not isinstance(file.dataset, ConditioningDataset):
                continue
            try:
                media_id, found = memo.require(file)
            except MediaError as error:
                rejected[file.id] = str(error)
                continue
            kind = PictureProbe if file.kind == "image" else MediaProbe
            path = file.path.relative_to(file.root).as_posix()
            usable = CompanionFile(file.id, path, media_id, kind.model_validate(found))
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
        found: dict[str, Companion] = {}
        for dataset in self._datasets.companions(file.dataset):
            what = dataset.conditioning_type
            companion = self._named.of_clip(dataset.id, clip.path, what)
            if companion is None:
                stem = PurePosixPath(clip.path).with_suffix("")
                raise MediaError(f"has no {what} in {dataset.id}: expected {stem}.* there")
            found[what] = plan_companion(dataset, companion, clip)
        return clip.model_copy(update=found) if found else clip

    def unused(self, samples: Sequence[Sample]) -> dict[str, str]:
        """Id -> why, of the files that no sample has."""
        used = {companion.id for sample in samples for companion in sample.companions}
        return {file_id: NOBODYS for file_id in self._ids if file_id not in used}
