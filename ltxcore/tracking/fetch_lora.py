"""A LoRA file out of MLflow: of a registered model's version or alias, or of a run."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from ltxcore.config.lora_files import DIFFUSERS_FILE
from ltxcore.deadline import CALL_LIMIT_S, within
from ltxcore.models.errors import ModelError
from ltxcore.models.lora.locate import check_name, keep, kept_file, kept_folder
from ltxcore.store.blobs import TEMPORARY, make_directory
from ltxcore.store.locks import exclusive
from ltxcore.tracking.mlflow_run import ENVIRONMENT, Tracking
from ltxcore.tracking.secrets import redact

logger = logging.getLogger(__name__)

DOWNLOAD_LIMIT_S: Final = 600.0
"""For a file; on top of what the server takes to answer."""


def fetch_lora(
    name: str, models_dir: Path, tracking: Tracking, limit_s: float = CALL_LIMIT_S + DOWNLOAD_LIMIT_S
) -> Path:
    """Fetch what an address means now, as an alias may have moved; keep what is here where MLflow is away.

    Args:
        name: `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/RUN/PATH`.
        models_dir: of the workspace.
        tracking: where the model is registered.
        limit_s: for all of it.

    Raises:
        ModelError: MLflow does not have it or cannot be reached, and it was not fetched before; or there is
            no LoRA, or more than one, at that address.
    """
    check_name(name)
    folder = kept_folder(name, models_dir)
    make_directory(folder)
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    with (
        exclusive(folder.parent / f".{folder.name}.lock", f"fetching {name}"),
        tempfile.TemporaryDirectory(
            dir=folder, prefix=".fetched-", suffix=TEMPORARY, ignore_cleanup_errors=True
        ) as temporary,
    ):
        try:
            fetched = within(
                limit_s, f"the download of {name}", lambda: _download(name, temporary, tracking.uri)
            )
        except Exception as error:  # noqa: BLE001 - MLflow raises whatever its backends raise
            return _kept_instead(name, models_dir, redact(str(error)))
        chosen = _lora_in(name, fetched)
        target = folder / chosen.name
        chosen.replace(target)
        return keep(name, target, folder)


def _download(name: str, directory: str, uri: str) -> Path:
    from mlflow.artifacts import download_artifacts

    source = _source(name, uri) if name.startswith("models:") else name
    return Path(download_artifacts(artifact_uri=source, dst_path=directory, tracking_uri=uri))


def _source(name: str, uri: str) -> str:
    """Where the files of a registered model are: MLflow itself would look in its default registry."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    model, at, alias = name.removeprefix("models:/").partition("@")
    if at:
        found = client.get_model_version_by_alias(model, alias)
    else:
        found = client.get_model_version(*model.rsplit("/", 1))
    return str(client.get_model_version_download_uri(found.name, found.version))


def _kept_instead(name: str, models_dir: Path, trouble: str) -> Path:
    known = kept_file(name, models_dir)
    if known is None:
        raise ModelError(
            f"{name} could not be fetched from MLflow: {trouble}; check name and server, or give a file"
        )
    logger.warning("MLflow could not be asked about %s (%s); the copy from before is used", name, trouble)
    return known


def _lora_in(name: str, there: Path) -> Path:
    """The LoRA in what was downloaded."""
    if there.is_file():
        files = [there]
    else:
        files = sorted(file for file in there.rglob("*") if file.is_file() and not file.is_symlink())
    files = [file for file in files if file.suffix == ".safetensors"]
    plain = [file for file in files if file.name == DIFFUSERS_FILE]
    if len(plain or files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ModelError(
            f"{name} must hold one LoRA; its .safetensors files are: {found}. Write runs:/RUN_ID/lora/FILE"
        )
    return (plain or files)[0]
