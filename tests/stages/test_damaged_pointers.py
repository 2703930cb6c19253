"""Small files of a workspace that are JSON but not what was written: the error says which, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.execution import sweep
from ltxcore.jobs.publish.finished_run import open_run
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.stamp import newest_stamp
from ltxcore.store.blobs import DamagedFile
from ltxcore.store.workspace import Workspace
from tests.published_run import RUN, FinishedRun

READERS: dict[str, Callable[[Workspace], object]] = {
    "workspace.json": lambda space: space.id,
    "snapshots/latest.json": lambda space: space.load_snapshot(),
    "runs/newest.json": lambda space: space.newest_run,
    f"runs/{RUN}/run.json": open_run,
    "stages/train-lora/newest.json": lambda space: newest_stamp(space, TRAIN),
}
PROTECTS = ("runs/newest.json", "stages/train-lora/newest.json", "snapshots/latest.json")
"""Without what these name, nobody knows what must stay."""


@pytest.mark.parametrize("content", ["{}", "[]", '{"other": 1}'])
@pytest.mark.parametrize("name", READERS)
def test_a_pointer_without_its_key_is_named_with_what_to_do(tmp_path: Path, name: str, content: str) -> None:
    space = FinishedRun(tmp_path).workspace
    assert space.id
    READERS[name](space)
    file = space.root / name
    file.write_text(content)
    with pytest.raises(DamagedFile) as caught:
        READERS[name](space)
    assert str(caught.value).startswith(f"{file} is damaged: ")
    assert str(caught.value).endswith("delete it, and the next run writes it again")
    if name in PROTECTS:
        with pytest.raises(DamagedFile, match=str(file)):
            sweep.plan(space, 0)
        refused = CliRunner().invoke(app, ["gc", "--apply", "--days", "0", "--workspace", str(space.root)])
        assert (refused.exit_code, str(file) in refused.output) == (2, True)
