"""Where the weights of a recipe are: a file, a directory or a hub repository, in either layout."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ltxcore.config.model_settings import TINY_MODEL, TOY_MODEL, ModelSettings
from ltxcore.config.published import (
    DEFAULT_FLAVOUR,
    PUBLISHED,
    VERSION_OF,
    FlavourFiles,
    flavour_files,
)
from ltxcore.deadline import CALL_LIMIT_S, DeadlineError, transfer_limit, within
from ltxcore.models.errors import ModelError
from ltxcore.models.files.combined import CombinedCheckpoint
from ltxcore.models.files.packs import packs_of
from ltxcore.models.version import Version
from ltxcore.models.versions import COMPONENTS

MODEL_INDEX = "model_index.json"
TOY_CHECKPOINT = "ltx-2-toy.safetensors"
TEXT_COMPONENTS = ("text_encoder", "tokenizer")
WEIGHTS = "*.safetensors"
PACK_FOLDERS = ("diffusion_models", "text_encoders", "vae")
"""Folders of a repository of packs, and of ComfyUI's models."""
SHOWN = 5
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OWN_COMPONENTS = tuple(f"{name}/*" for name in COMPONENTS if name not in TEXT_COMPONENTS)
_OWN_TEXT = tuple(f"{name}/*" for name in TEXT_COMPONENTS)
_TEXT_FILES = ("config.json", "*.safetensors", "*.index.json", "*token*", *_OWN_TEXT)


DOWNLOAD_LIMIT_S = 600.0
"""On top of what the files take: several small answers, waits for locks, hashes of what is there."""


@dataclass(frozen=True)
class Found:
    """Where a model is."""

    root: Path
    """A combined file, a directory in the diffusers layout, or the directory of the packs."""
    packs: tuple[Path, ...] = ()
    """Files of which a model in packs is put together; none where it is one of the other two."""


def find_model(settings: ModelSettings, fetch: bool) -> Found:
    """The combined file, the directory in the diffusers layout, or the packs that a recipe names.

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
        return Found(path.resolve())
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
    return Path(__file__).parents[1] / "toy"


def find_parts(settings: ModelSettings, fetch: bool) -> dict[str, Path]:
    """The files that the recipe names for single parts.

    Raises:
        ModelError: one is not here (nor, with `fetch`, on the hub).
    """
    return {part: _find_part(part, name, fetch) for part, name in settings.parts.items()}


def _find_part(part: str, name: str, fetch: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_file() or (part == "text_encoder" and path.is_dir()):
        return path.resolve()
    repo, _, file = name.partition(":")
    if not file.endswith(".safetensors") or not may_be_hub_id(repo):
        raise ModelError(
            f"model.parts: the {part} {name} is not a file on this machine; give a .safetensors, or "
            "repo_id:file, e.g. Lightricks/LTX-2.5:vae/ltx-2.5-video-vae-conv-bf16.safetensors"
        )
    found = hub_snapshot(repo, None, (file,), fetch) / file
    if not found.is_file():
        raise ModelError(f"model.parts: {repo} holds no {file}; check the names of its files on the hub")
    return found


def find_text(settings: ModelSettings, root: Path, version: Version, fetch: bool) -> Path:
    """The directory or the pack of Gemma and its tokenizer, of a model that comes without one.

    Raises:
        ModelError: the recipe's `text_encoder` is not here, or a checkpoint comes without one.
    """
    if settings.text_encoder:
        return _text_directory(settings.text_encoder, version, fetch)
    if (root / MODEL_INDEX).is_file() or (root / "text_encoder").is_dir():
        return root
    if root.is_file() and (root.parent / "text_encoder").is_dir():
        return root.parent
    wanted = version.text_encoder
    raise ModelError(
        f"{root} holds no Gemma, and there is no folder text_encoder beside it; set model.text_encoder to "
        f"{wanted.name}, a directory or hub id such as {wanted.source}"
    )


def find_adapter(name: str, fetch: bool, token: str | None = None) -> Path:
    """The LoRA file that a recipe names: a path, or `repo_id:weight_name`.

    Args:
        name: as in the recipe.
        fetch: False looks on this machine alone.
        token: of the hub. None: this machine's own.

    Raises:
        ModelError: it is not here (nor, with `fetch`, on the hub).
    """
    check_adapter(name)
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    repo, _, weight = name.partition(":")
    file = hub_snapshot(repo, None, (weight,), fetch, token) / weight
    if not file.is_file():
        raise ModelError(f"{repo} holds no {weight}; check the names of its files on the hub")
    return file


def check_adapter(name: str) -> None:
    """Refuse what can be no adapter, without asking the hub.

    Raises:
        ModelError: it is neither a file nor `repo_id:weight_name`.
    """
    repo, _, weight = name.partition(":")
    inside = not {"", ".", ".."} & set(weight.split("/"))
    on_hub = weight.endswith(".safetensors") and inside and may_be_hub_id(repo)
    if not Path(name).expanduser().is_file() and not on_hub:
        raise ModelError(
            f"the adapter {name} is not a file on this machine; give a .safetensors, or repo_id:weight_name, "
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
    wanted, of = flavour_files(settings.model_flavour), VERSION_OF[settings.model_flavour]
    storage = "bf16" if combined is None else combined.storage
    if (of, wanted.storage) == (version.name, storage):
        return
    flavours = version.published.flavours
    fitting = [name for name, flavour in flavours.items() if flavour.storage == storage]
    advice = f"set model_flavour to {' or '.join(fitting)}" if fitting else "leave model_flavour out"
    raise ModelError(
        f"{root} holds an LTX-{version.name} in {storage}, but model_flavour {settings.model_flavour} is an "
        f"LTX-{of} in {wanted.storage}; {advice}, or give {wanted.file}"
    )


def _in_directory(directory: Path, flavour: str | None) -> Found:
    files = flavour_files(flavour or DEFAULT_FLAVOUR)
    exact = next((path for path in _places(directory, files.file) if path.is_file()), None)
    diffusers = (directory / MODEL_INDEX).is_file()
    if flavour is not None and exact is not None:
        return _with_packs(directory, exact, files)
    if diffusers and (flavour is None or files.storage == "bf16"):
        return Found(directory)
    if exact is not None:
        return _with_packs(directory, exact, files)
    found = [path for folder in ("", *PACK_FOLDERS) for path in sorted((directory / folder).glob(WEIGHTS))]
    if not found:
        # Recognising the directory tells what a directory of a model holds.
        return Found(directory)
    if len(found) == 1:
        return Found(found[0])
    packs = packs_of(found)
    transformers = [pack.path for pack in packs if "transformer" in pack.holds]
    if len(transformers) > 1:
        names = ", ".join(path.name for path in transformers[:SHOWN])
        raise ModelError(
            f"{directory} holds {len(transformers)} checkpoints ({names}), none of them {files.file}; set "
            f"model_flavour to one of {', '.join(VERSION_OF)}, or give the file itself"
        )
    return Found(directory, tuple(pack.path for pack in packs))


def _places(directory: Path, file: str) -> tuple[Path, Path]:
    """A published file in the folders of its repository, or all files in one."""
    return directory / file, directory / Path(file).name


def _with_packs(directory: Path, main: Path, files: FlavourFiles) -> Found:
    """A flavour's file, and where it is a pack the others beside it."""
    if not files.packs:
        return Found(main)
    beside = [path for folder in ("", *PACK_FOLDERS) for path in sorted((directory / folder).glob(WEIGHTS))]
    others = [pack.path for pack in packs_of(beside) if "transformer" not in pack.holds]
    return Found(directory, (main, *others))


def _text_directory(name: str, version: Version, fetch: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return path.resolve()
    wanted = version.text_encoder
    if path.exists() or not may_be_hub_id(name):
        raise ModelError(
            f"the text encoder {name} is neither a directory on this machine nor a hub id; set "
            f"model.text_encoder to a directory or hub id of {wanted.name}, such as {wanted.source}"
        )
    return hub_snapshot(name, None, _TEXT_FILES, fetch)


def may_be_hub_id(name: str) -> bool:
    """Whether a name that is not on this machine can be a repository's."""
    path = Path(name).expanduser()
    local = path.exists() or name.startswith((".", "~", "/")) or path.suffix == ".safetensors"
    return not local and _HUB_ID.fullmatch(name) is not None


def _in_repository(settings: ModelSettings, fetch: bool) -> Found:
    """A repository may hold any layout: its model_index.json, or else the flavour, tells."""
    repo, revision = settings.pretrained_model_name_or_path, settings.revision
    flavour = flavour_files(settings.model_flavour or _usual_flavour(repo))
    text = () if settings.text_encoder else _OWN_TEXT
    if flavour.storage == "bf16":
        root = hub_snapshot(repo, revision, (MODEL_INDEX,), fetch)
        if (root / MODEL_INDEX).is_file():
            wanted = (MODEL_INDEX, "scheduler/*", *_OWN_COMPONENTS, *text)
            return Found(hub_snapshot(repo, revision, wanted, fetch))
    root = hub_snapshot(repo, revision, (flavour.file, *flavour.packs, *text), fetch)
    lacking = [file for file in (flavour.file, *flavour.packs) if not (root / file).is_file()]
    if lacking:
        where = "" if fetch else " on this machine; train-ltx2 and probe-media download what the hub has"
        raise ModelError(
            f"{repo} holds neither the diffusers layout nor {lacking[0]}{where}; set model_flavour to one "
            f"of {', '.join(VERSION_OF)}, or give a file or directory"
        )
    if flavour.packs:
        return Found(root, tuple(root / file for file in (flavour.file, *flavour.packs)))
    return Found(root / flavour.file)


def _usual_flavour(repo: str) -> str:
    """The first flavour of the version that is published there, or else of all."""
    here = (row for row in PUBLISHED.values() if row.repository == repo)
    return next((next(iter(row.flavours)) for row in here), DEFAULT_FLAVOUR)


def _wanted_bytes(repo: str, revision: str | None, patterns: list[str], token: str | None) -> int | None:
    """How much would be downloaded at most; None where the hub does not answer in time."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    def ask() -> int:
        files = HfApi(token=token).model_info(repo, revision=revision, files_metadata=True).siblings or []
        wanted = filter_repo_objects(files, allow_patterns=patterns, key=lambda file: file.rfilename)
        return sum(file.size or 0 for file in wanted)

    try:
        return within(CALL_LIMIT_S, f"the hub's answer about {repo}", ask)
    except (DeadlineError, httpx2.TransportError):
        return None


def hub_snapshot(
    repo: str, revision: str | None, wanted: Iterable[str], fetch: bool, token: str | None = None
) -> Path:
    """The folder of a hub repository's files on this machine, downloaded where they are missing.

    Args:
        repo: `owner/name`.
        revision: branch, tag or commit; None: the default branch.
        wanted: glob patterns of the files.
        fetch: False looks on this machine alone.

    Raises:
        ModelError: the files are not here and cannot be downloaded.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    offline = constants.HF_HUB_OFFLINE
    patterns = list(wanted)

    def download(here_only: bool) -> str:
        return snapshot_download(
            repo, revision=revision, allow_patterns=patterns, local_files_only=here_only, token=token
        )

    try:
        size = None if offline or not fetch else _wanted_bytes(repo, revision, patterns, token)
        if size is None:
            found = download(here_only=True)
        else:
            limit = DOWNLOAD_LIMIT_S + transfer_limit(size)
            what = f"the download of {size / 1e9:.1f} GB from {repo}"
            found = within(limit, what, lambda: download(here_only=False))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        if offline:
            remedy = "HF_HUB_OFFLINE is set; unset it to download"
        elif fetch:
            remedy = "the hub could not be reached; check the network"
        else:
            remedy = "run train-ltx2 or probe-media, which download it"
        raise ModelError(
            f"{repo} is not a directory here and is not in this machine's hub cache: {remedy}, "
            "or give a directory"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{repo} could not be downloaded: {error}; check the id and the network") from error
    return Path(found)
