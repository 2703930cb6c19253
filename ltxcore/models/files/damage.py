"""Compares model files with the hashes that were recorded when they were first read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ltxcore.models.errors import ModelError
from ltxcore.models.files.combined import COMBINED_COMPONENTS, open_combined
from ltxcore.models.files.hashes import FINGERPRINTS, KnownHash, hash_tensors, read_hashes
from ltxcore.models.files.source import stored_parts
from ltxcore.store.file_hashes import CHANGED, SET_ASIDE, FileFault, fault_of
from ltxcore.store.fingerprint import FileIdentity

DIRECTORY: Final = "quantised"
"""In the folder of models: quantised weights."""
NO_HASHES: Final = "cannot be read as hashes of model files"


@dataclass
class ModelCheck:
    """What a look at every model file that was ever hashed found."""

    checked: int = 0
    faults: list[FileFault] = field(default_factory=list)


def check_models(models_dir: Path) -> ModelCheck:
    """Read each model file again whose size and times are as when it was hashed.

    One that was replaced since is hashed when it is used, and one that is gone is missed then.
    """
    found = ModelCheck()
    try:
        hashes = read_hashes(models_dir)
    except ValueError:
        found.faults.append(FileFault(models_dir / FINGERPRINTS, NO_HASHES))
        return found
    for key, known in sorted(hashes.items()):
        file, part = _file_and_part(key)
        try:
            if FileIdentity.of(file) != known.identity:
                continue
        except OSError:
            continue
        found.checked += 1
        fault = _fault_of(file, part, known)
        if fault is not None:
            found.faults.append(fault)
    return found


def set_aside(models_dir: Path, fault: FileFault) -> Path | None:
    """Rename a damaged file that is made anew when it is missing; None where it was left alone.

    That is what this program has made of other files: quantised weights and the remembered hashes. Weights
    that were downloaded are not touched.
    """
    made = fault.file.parent == models_dir / DIRECTORY or fault.file == models_dir / FINGERPRINTS
    if not made or not fault.readable:
        return None
    aside = fault.file.with_name(f"{fault.file.name}{SET_ASIDE}")
    fault.file.replace(aside)
    return aside


def _file_and_part(key: str) -> tuple[Path, str]:
    """What a remembered hash is of: a file, or a component in a combined one."""
    file, _, part = key.rpartition("#")
    return (Path(file), part) if part in COMBINED_COMPONENTS else (Path(key), "")


def _fault_of(file: Path, part: str, known: KnownHash) -> FileFault | None:
    if not part:
        return fault_of(file, known.sha256)
    try:
        whole = hash_tensors(file, stored_parts(open_combined(file).weights(part))) == known.sha256
    except OSError as error:
        return FileFault.unreadable(file, error)
    except ModelError:
        # A pack that is no model by itself: its parts are looked at where the whole model is known.
        return None
    return None if whole else FileFault(file, f"{CHANGED} ({part})")
