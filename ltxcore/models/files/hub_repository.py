"""Whether the repositories that a recipe names exist on the hub, asked before anything is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from ltxcore.config.model_settings import TINY_MODEL, TOY_MODEL, ModelSettings
from ltxcore.deadline import CALL_LIMIT_S, DeadlineError, within
from ltxcore.models.files.locate_weights import may_be_hub_id


def missing_model(settings: ModelSettings) -> str | None:
    """Why a model that is not on this machine cannot be fetched; None where the hub has it.

    Asks the hub, unless this machine is told to stay offline.
    """
    for name in repositories(settings):
        reason = _why_not(name, settings.revision if name == settings.pretrained_model_name_or_path else None)
        if reason is not None:
            return reason
    return None


def no_room_for(download_bytes: int) -> str | None:
    """Why a download does not fit on the disk of the hub's cache; None where it does, or there is none."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if download_bytes <= free:
        return None
    return (
        f"about {download_bytes / 1e9:.0f} GB of weights would be downloaded to {cache}, and "
        f"{free / 1e9:.0f} GB are free there; make room, or set HF_HOME to another disk"
    )


def repositories(settings: ModelSettings) -> list[str]:
    """The hub ids that a recipe names, each once."""
    names = [settings.pretrained_model_name_or_path, *filter(None, [settings.text_encoder])]
    names += [name.partition(":")[0] for name in settings.parts.values()]
    return [
        name for name in dict.fromkeys(names) if name not in (TINY_MODEL, TOY_MODEL) and may_be_hub_id(name)
    ]


def _why_not(repo: str, revision: str | None) -> str | None:
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return (
            f"{repo} is not on this machine, and HF_HUB_OFFLINE is set; unset it to download, or give a "
            "directory or a file by model.pretrained_model_name_or_path"
        )
    try:
        within(
            CALL_LIMIT_S,
            f"the hub's answer about {repo}",
            lambda: HfApi().model_info(repo, revision=revision),
        )
    except GatedRepoError:
        return (
            f"{repo} is given to those who accepted its licence: accept it on the hub's page, and sign in "
            "by `hf auth login` or HF_TOKEN"
        )
    except RevisionNotFoundError:
        return f"{repo} has no revision {revision}; look at its branches on the hub"
    except RepositoryNotFoundError:
        return (
            f"there is no model {repo} on the hub, or it is private and the token here may not see it; give "
            "a hub id such as Lightricks/LTX-2"
        )
    except (DeadlineError, HfHubHTTPError, httpx2.TransportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"{repo} is not on this machine, and the hub did not answer: {reason}; check the network"
    return None
