"""Where the weights of a recipe are: a file, a directory or a hub repository, in either layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ltxcore.config.model_settings import TINY_MODEL, TOY_MODEL, ModelSettings
from ltxcore.models.combined import CombinedCheckpoint, Storage
from ltxcore.models.errors import ModelError
from ltxcore.models.versions import COMPONENTS, Version

MODEL_INDEX = "model_index.json"
TOY_CHECKPOINT = "ltx-2-toy.safetensors"
TEXT_COMPONENTS = ("text_encoder", "tokenizer")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OWN_COMPONENTS = tuple(f"{name}/*" for name in COMPONENTS if name not in TEXT_COMPONENTS)
_OWN_TEXT = tuple(f"{name}/*" for name in TEXT_COMPONENTS)
_TEXT_FILES = ("config.json", "*.safetensors", "*.index.json", "*token*", *_OWN_TEXT)


@dataclass(frozen=True)
class FlavourFile:
    """A published combined checkpoint."""

    version: str
    storage: Storage
    file: str


FLAVOURS: Mapping[str, FlavourFile] = MappingProxyType(
    {
        "dev": FlavourFile("2.0", "bf16", "ltx-2-19b-dev.safetensors"),
        "dev-fp8": FlavourFile("2.0", "fp8", "ltx-2-19b-dev-fp8.safetensors"),
        "dev-fp4": FlavourFile("2.0", "fp4", "ltx-2-19b-dev-fp4.safetensors"),
        "2.3-dev": FlavourFile("2.3", "bf16", "ltx-2.3-22b-dev.safetensors"),
        "2.3-distilled": FlavourFile("2.3", "bf16", "ltx-2.3-22b-distilled.safetensors"),
    }
)
_DEFAULT_FLAVOUR = "dev"


def find_model(settings: ModelSettings, fetch: bool) -> Path:
    """The combined file or the directory in the diffusers layout that a recipe names.

    Raises:
        ModelError: it is not here (nor, with `fetch`, on the hub), or it is not clear which file is meant.
    """
    name, flavour = settings.pretrained_model_name_or_path, settings.model_flavour
    if name == TOY_MODEL and not (toy_directory() / TOY_CHECKPOINT).is_file():
        raise ModelError(
            f"the toy LTX-2 is not in {toy_directory()}; `python -m bench.toy.make WORK` makes it, or give "
            f"`{TINY_MODEL}`"
        )
    path = toy_directory() if name == TOY_MODEL else Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        return _in_directory(path.resolve(), flavour)
    if path.suffix == ".safetensors" or not may_be_hub_id(name):
        raise ModelError(
            f"{name} is neither a file nor a directory on this machine nor a hub id; give a combined "
            f".safetensors, a directory in the diffusers layout, a hub id such as Lightricks/LTX-2, or "
            f"`{TOY_MODEL}` or `{TINY_MODEL}`"
        )
    return _in_repository(settings, fetch)


def toy_directory() -> Path:
    """Where the toy LTX-2 is, once it is made: a combined checkpoint and its Gemma."""
    return Path(__file__).parent / "toy"


def find_text(settings: ModelSettings, root: Path, fetch: bool) -> Path:
    """The directory of Gemma and its tokenizer.

    Raises:
        ModelError: the recipe's `text_encoder` is not here, or a combined checkpoint comes without one.
    """
    if settings.text_encoder:
        return _text_directory(settings.text_encoder, fetch)
    if root.is_dir():
        return root
    if (root.parent / "text_encoder").is_dir():
        return root.parent
    raise ModelError(
        f"{root} is a combined checkpoint, which holds no Gemma, and there is no folder text_encoder beside "
        "it; set model.text_encoder to a directory or hub id of Gemma 3 12B, such as google/gemma-3-12b-it"
    )


def find_adapter(name: str, fetch: bool) -> Path:
    """The LoRA file that a recipe names: a path, or `repo_id:weight_name`.

    Raises:
        ModelError: it is not here (nor, with `fetch`, on the hub).
    """
    check_adapter(name)
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    repo, _, weight = name.partition(":")
    file = hub_snapshot(repo, None, (weight,), fetch) / weight
    if not file.is_file():
        raise ModelError(f"{repo} holds no {weight}; look at the names of its files on the hub")
    return file


def check_adapter(name: str) -> None:
    """Refuse what can be no adapter, without asking the hub.

    Raises:
        ModelError: it is neither a file nor `repo_id:weight_name`.
    """
    repo, _, weight = name.partition(":")
    on_hub = weight.endswith(".safetensors") and may_be_hub_id(repo)
    if not Path(name).expanduser().is_file() and not on_hub:
        raise ModelError(
            f"the adapter {name} is no file on this machine; give a .safetensors, or repo_id:weight_name, "
            "e.g. Lightricks/LTX-2-19b-distilled-lora-384:ltx-2-19b-distilled-lora-384.safetensors"
        )


def require_flavour(
    settings: ModelSettings, root: Path, version: Version, combined: CombinedCheckpoint | None
) -> None:
    """Refuse weights that are not what the recipe's flavour says.

    Raises:
        ModelError: names what was found, what was asked for, and what to write instead.
    """
    if settings.model_flavour is None:
        return
    wanted = FLAVOURS[settings.model_flavour]
    storage = "bf16" if combined is None else combined.storage
    if (wanted.version, wanted.storage) == (version.name, storage):
        return
    fitting = [
        name
        for name, flavour in FLAVOURS.items()
        if (flavour.version, flavour.storage) == (version.name, storage)
    ]
    advice = f"set model_flavour to {' or '.join(fitting)}" if fitting else "leave model_flavour out"
    raise ModelError(
        f"{root} holds an LTX-{version.name} in {storage}, but model_flavour {settings.model_flavour} is an "
        f"LTX-{wanted.version} in {wanted.storage}; {advice}, or give {wanted.file}"
    )


def _in_directory(directory: Path, flavour: str | None) -> Path:
    exact = directory / FLAVOURS[flavour or _DEFAULT_FLAVOUR].file
    diffusers = (directory / MODEL_INDEX).is_file()
    if flavour is not None and exact.is_file():
        return exact
    if diffusers and (flavour is None or FLAVOURS[flavour].storage == "bf16"):
        return directory
    if exact.is_file():
        return exact
    files = sorted(directory.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if not files:
        # Recognising the directory tells what a directory of a model holds.
        return directory
    raise ModelError(
        f"{directory} holds {len(files)} checkpoints ({', '.join(file.name for file in files[:5])}), none of "
        f"them {exact.name}; set model_flavour to one of {', '.join(FLAVOURS)}, or give the file itself"
    )


def _text_directory(name: str, fetch: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists() or not may_be_hub_id(name):
        raise ModelError(
            f"the text encoder {name} is neither a directory on this machine nor a hub id; set "
            "model.text_encoder to a directory or hub id of Gemma 3 12B, such as google/gemma-3-12b-it"
        )
    return hub_snapshot(name, None, _TEXT_FILES, fetch)


def may_be_hub_id(name: str) -> bool:
    """Whether a name that is not on this machine can be a repository's."""
    path = Path(name).expanduser()
    local = path.exists() or name.startswith((".", "~", "/")) or path.suffix == ".safetensors"
    return not local and _HUB_ID.fullmatch(name) is not None


def _in_repository(settings: ModelSettings, fetch: bool) -> Path:
    """A repository may hold either layout: its model_index.json tells."""
    repo, revision = settings.pretrained_model_name_or_path, settings.revision
    flavour = FLAVOURS[settings.model_flavour or _DEFAULT_FLAVOUR]
    text = () if settings.text_encoder else _OWN_TEXT
    if flavour.storage == "bf16":
        root = hub_snapshot(repo, revision, (MODEL_INDEX,), fetch)
        if (root / MODEL_INDEX).is_file():
            return hub_snapshot(repo, revision, (MODEL_INDEX, "scheduler/*", *_OWN_COMPONENTS, *text), fetch)
    file = hub_snapshot(repo, revision, (flavour.file, *text), fetch) / flavour.file
    if not file.is_file():
        where = "" if fetch else " on this machine; train-ltx2 and probe-media download what the hub has"
        raise ModelError(
            f"{repo} holds neither the diffusers layout nor {flavour.file}{where}; set model_flavour to one "
            f"of {', '.join(FLAVOURS)}, or give a file or directory"
        )
    return file


def hub_snapshot(repo: str, revision: str | None, wanted: Iterable[str], fetch: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    offline = constants.HF_HUB_OFFLINE
    try:
        found = snapshot_download(
            repo, revision=revision, allow_patterns=list(wanted), local_files_only=offline or not fetch
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        if offline:
            remedy = "HF_HUB_OFFLINE is set; unset it to download"
        elif fetch:
            remedy = "the hub could not be reached; check the network"
        else:
            remedy = "run train-ltx2 or probe-media, which download it"
        raise ModelError(
            f"{repo} is no directory here and is not in this machine's hub cache: {remedy}, "
            "or give a directory"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{repo} could not be downloaded: {error}; check the id and the network") from error
    return Path(found)
