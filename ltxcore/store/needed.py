"""Writing down which keys of a store something needs, so that no sweep takes them away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ltxcore.store.index import FOLDERS, Index
from ltxcore.store.lease import writing
from ltxcore.store.records import FORMS
from ltxcore.store.refs import Ref, Refs
from ltxcore.store.workspace import Workspace


def keep_needed(workspace: Workspace, directory: str, needs: Mapping[str, Sequence[str]], who: str) -> None:
    """Record in a workspace's store which keys are needed by what lies in one of its directories.

    Args:
        workspace: whose need it is.
        directory: relative to it; as long as `gc` keeps it, the keys are kept.
        needs: part of the store -> keys.
        who: shown to others that wait to write.
    """
    ref = Ref(
        workspace=str(workspace.root),
        directory=directory,
        needs={part: tuple(sorted(set(keys))) for part, keys in needs.items()},
    )
    store = workspace.store
    with writing(store, "refs", f"{who} of {workspace.root}"):
        Refs(store).publish(workspace.id, ref)
        for part, keys in ref.needs.items():
            for folder in FOLDERS[part]:
                Index(store, folder, FORMS[folder]).keep(keys)
