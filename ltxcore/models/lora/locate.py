"""The LoRA file that a recipe begins with: on this machine, on the hub, or in MLflow. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import check_adapter, find_adapter
from ltxcore.store.blobs import DamagedFile, read_json, write_json
from ltxcore.store.fingerprint import fingerprint, hash_file

MLFLOW: Final = re.compile(r"(models:/[^/@]+(/[^/@]+|@[^/@]+)|runs:/[0-9a-zA-Z]+/[^@]+)")
RECORD: Final = "source.json"
"""Written last, when the file that it names is whole."""


def is_mlflow(name: str) -> bool:
    """Whether a name means something in MLflow."""
    return name.startswith(("models:/", "runs:/"))


def check_name(name: str) -> None:
    """Refuse what can be no LoRA, without asking anybody.

    Raises:
        ModelError: it is neither a file, nor `repo_id:file`, nor an address in MLflow.
    """
    if not is_mlflow(name):
        check_adapter(name)
    elif not MLFLOW.fullmatch(name) or ".." in name.split("/"):
        raise ModelError(
            f"{name} is not an address of MLflow; write models:/NAME/VERSION, models:/NAME@ALIAS or "
            "runs:/RUN_ID/lora/FILE.safetensors"
        )


def find_lora(name: str, models_dir: Path) -> Path:
    """The file on this machine.

    Raises:
        ModelError: it is not here.
    """
    check_name(name)
    if not is_mlflow(name):
        return find_adapter(name, fetch=False)
    found = kept_file(name, models_dir)
    if found is None:
        raise ModelError(f"{name} is not on this machine yet; train-ltx2 and `ltx2 run` fetch it from MLflow")
    return found


def kept_folder(name: str, models_dir: Path) -> Path:
    """Where a file of MLflow is kept."""
    return models_dir / "loras" / fingerprint(name)[:16]


def kept_file(name: str, models_dir: Path) -> Path | None:
    """What was fetched of an address in MLflow; None where it was not, or is not what was fetched."""
    folder = kept_folder(name, models_dir)
    try:
        record = read_json(folder / RECORD)
        file = folder / Path(record["file"]).name
        whole = file.is_file() and file.stat().st_size == record["bytes"]
    except (FileNotFoundError, DamagedFile, KeyError, TypeError):
        return None
    return file if whole else None


def keep(name: str, file: Path, folder: Path) -> Path:
    """Note that a file in the folder is what an address means."""
    record = {"address": name, "file": file.name, "bytes": file.stat().st_size, "sha256": hash_file(file)}
    write_json(folder / RECORD, record)
    return file
