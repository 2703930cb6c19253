"""Histories of a store that two workspaces share: nothing is lost, nothing half, whatever was done."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from bench.faults.clips import Clip, SharedWorkspace, keys_of, snapshot_of
from bench.faults.histories import Histories, PlannedClips, make_older
from bench.faults.keeper import PARTS, Harmed, put, state_of
from bench.faults.object_store import object_store
from bench.faults.sleeper import Sleeper
from ltxcore.execution import sweep
from ltxcore.store import sweep as store_sweep
from ltxcore.store.blobs import Blobs
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.index import Index
from ltxcore.store.sweep import PartSweep, sweep_part
from ltxcore.store.verify import verify

# `bench/histories.py` draws more of them.
SOME = settings(
    database=None,
    deadline=None,
    max_examples=40,
    stateful_step_count=5,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def histories(number: int) -> None:
    """Some histories, the same on every machine: no run of CI is another's bad luck."""

    class Numbered(Histories):
        pass

    run_state_machine_as_test(seed(number)(Numbered), settings=SOME)


@pytest.mark.parametrize("number", range(4))
def test_no_history_loses_anything_that_is_needed(number: int) -> None:
    Histories.happened.clear()
    histories(number)
    wanted = ("run: killed", "gc: done", "compact: done", "samples swept", "files damaged")
    assert all(Histories.happened[what] for what in wanted), Histories.happened


def test_a_sweep_that_knows_no_waveform_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was when the sweep asked the records for a field that had another name by then."""
    monkeypatch.setattr(store_sweep, "_waveform_file", lambda key, record: None)
    with pytest.raises(Harmed, match=r"half there: audio/.* is gone"):
        histories(0)


def test_a_compaction_that_drops_a_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Index.compact

    def compact(self: Index[Any], changes: Any, note: Any, after: int) -> None:
        self._records.pop(next(iter(self._records), ""), None)
        whole(self, changes, note, after)

    monkeypatch.setattr(Index, "compact", compact)
    with pytest.raises(Harmed, match="gone: "):
        histories(0)


def test_a_sweep_that_sweeps_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "sweep_part", lambda blobs, part, needed_now, before: PartSweep(part))
    with pytest.raises(Harmed, match="they were not swept"):
        histories(0)


@pytest.mark.parametrize("tidy", ["sweep", "compact"])
@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_who_slept_while_its_files_were_taken_away_commits_nothing(
    tmp_path: Path, part: str, remote: bool, tidy: str
) -> None:
    """A laptop that was closed for two days between the writing of files and the record that names them."""
    blobs = object_store(tmp_path / "objects") if remote else Blobs(tmp_path / "store")
    ctx = PlannedClips(SharedWorkspace(tmp_path / "one", blobs), planned=snapshot_of({"a": Clip(0, 0)}))
    sleeper = Sleeper(part, blobs, keys_of(ctx)[part])
    make_older(tmp_path, days=2)
    if tidy == "sweep":
        assert sweep_part(blobs, part, dict, inf).unnamed
    else:
        compact(blobs, part, Compacted())
    sleeper.wake()
    assert sleeper.overtaken == (part != "audio" or tidy == "sweep"), "compaction leaves waveforms alone"
    assert verify(blobs).broken == ()
    put(part, blobs, keys_of(ctx)[part])
    assert state_of(blobs).keys() == keys_of(ctx)[part].keys()
