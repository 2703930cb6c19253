"""From what is known of each file to a sample or a rejection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltxcore.config.datasets import Datasets
from ltxcore.media.discover import plan_sample
from ltxcore.media.errors import MediaError
from ltxcore.media.probe import MediaProbe
from ltxcore.store.snapshot import Rejection, Sample

if TYPE_CHECKING:
    from ltxcore.stages.probe_media import MediaFile, Memo


def plan_files(
    datasets: Datasets, memo: Memo, files: Sequence[MediaFile]
) -> tuple[list[Sample], list[Rejection]]:
    """A sample or a rejection for each file, in their order."""
    samples: list[Sample] = []
    rejections: list[Rejection] = []
    for file in files:
        try:
            samples.append(_plan(memo, file))
        except MediaError as error:
            path = file.path.relative_to(file.root).as_posix()
            rejections.append(Rejection(id=file.id, dataset=file.dataset.id, path=path, reason=str(error)))
    return samples, rejections


def _plan(memo: Memo, file: MediaFile) -> Sample:
    known = memo.look_up(file)
    if known is None:
        raise MediaError("changed while it was being looked at; run probe-media again")
    media_id, record = known
    if "error" in record:
        raise MediaError(record["error"])
    found = MediaProbe.model_validate(record["probe"])
    return plan_sample(file.dataset, file.root, file.path, media_id, found)
