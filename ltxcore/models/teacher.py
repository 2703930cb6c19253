"""CREPA's teacher on this machine: a frozen DINOv2, found, fingerprinted and weighed without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ltxcore.config.crepa_settings import PATCH, TINY_TEACHER, TINY_WIDTH, CrepaSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.hashes import remembered_hashes
from ltxcore.models.files.locate_weights import hub_snapshot, may_be_hub_id
from ltxcore.models.files.recognise import read_json
from ltxcore.models.files.source import config_content
from ltxcore.models.files.tensor_file import read_tensor_file
from ltxcore.models.tiny.stamp import stamp_of
from ltxcore.store.fingerprint import fingerprint

TINY_DIRECTORY = "tiny-dinov2"
TINY_TEACHER_STAMP = '{"teacher": "dinov2", "revision": 1}'
"""What `tiny.json` in the tiny teacher says: the revision is raised when its weights change."""
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Released:
    """A published DINOv2."""

    repository: str
    width: int
    """Values of a patch token."""
    values: int
    """Parameters."""


RELEASED: Mapping[str, Released] = MappingProxyType(
    {
        "dinov2_vits14": Released("facebook/dinov2-small", 384, 22_056_576),
        "dinov2_vitb14": Released("facebook/dinov2-base", 768, 86_580_480),
        "dinov2_vitl14": Released("facebook/dinov2-large", 1024, 304_368_640),
        "dinov2_vitg14": Released("facebook/dinov2-giant", 1536, 1_136_480_768),
    }
)


@dataclass(frozen=True)
class TeacherSource:
    """A DINOv2 in the layout of transformers: config.json and safetensors."""

    root: Path
    models_dir: Path
    """Where hashes are remembered."""

    @property
    def config(self) -> dict[str, Any]:
        """The teacher's `config.json`."""
        return read_json(self.root / CONFIG)

    @property
    def width(self) -> int:
        """Values of a patch token."""
        return int(self.config["hidden_size"])

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files, in a fixed order.

        Raises:
            ModelError: one is not there.
        """
        index = self.root / INDEX
        names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [WEIGHTS]
        missing = [name for name in names if not (self.root / name).is_file()]
        if missing:
            raise ModelError(f"the teacher in {self.root} lacks {', '.join(missing)}; download it again")
        return [self.root / name for name in names]

    def resident_bytes(self, value_bytes: int) -> int:
        """Size of its weights once loaded, from the files' headers."""
        shapes = [t.shape for file in self.weight_files for t in read_tensor_file(file).tensors.values()]
        return value_bytes * sum(math.prod(shape) for shape in shapes)

    def fingerprint(self) -> str:
        """sha256 over its configuration and the contents of its weights; hashed once, then remembered."""
        hashes = remembered_hashes(self.weight_files, self.models_dir)
        contents = [hashes[file] for file in self.weight_files]
        return fingerprint({"component": "teacher", "config": config_content(self.config), "files": contents})


def width_of(settings: CrepaSettings) -> int:
    """Values of a patch token of the recipe's teacher, whether it is on this machine or not."""
    return TINY_WIDTH if settings.crepa_encoder == TINY_TEACHER else RELEASED[settings.crepa_encoder].width


def resolve_teacher(settings: CrepaSettings, models_dir: Path) -> TeacherSource:
    """Find the teacher of a recipe among what is on this machine. Writes and downloads nothing.

    Raises:
        ModelError: it is not here, or is not the DINOv2 that the recipe names; the text says what to do.
    """
    return _resolve(settings, models_dir, fetch=False)


def prepare_teacher(settings: CrepaSettings, models_dir: Path) -> TeacherSource:
    """Like `resolve_teacher`, but first write the tiny teacher, or download a hub id, where it is not here.

    Raises:
        ModelError: as `resolve_teacher`, or the hub could not be reached.
    """
    return _resolve(settings, models_dir, fetch=True)


def check_teacher(settings: CrepaSettings, models_dir: Path) -> None:
    """Refuse a teacher that could not even be fetched.

    Raises:
        ModelError: as `resolve_teacher`, but not where a first run writes or downloads what is missing.
    """
    name = settings.crepa_encoder_path
    if name is not None and not may_be_hub_id(name):
        resolve_teacher(settings, models_dir)


def _resolve(settings: CrepaSettings, models_dir: Path, fetch: bool) -> TeacherSource:
    if settings.crepa_encoder == TINY_TEACHER:
        return TeacherSource(_tiny(models_dir / TINY_DIRECTORY, fetch), models_dir)
    released = RELEASED[settings.crepa_encoder]
    name = settings.crepa_encoder_path or released.repository
    source = TeacherSource(_find(name, fetch), models_dir)
    _require_dinov2(source, settings.crepa_encoder, released.width)
    return source


def _find(name: str, fetch: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if not may_be_hub_id(name):
        raise ModelError(
            f"crepa_encoder_path: {name} is neither a directory on this machine nor a hub id; give a "
            f"directory with {CONFIG} and {WEIGHTS}, or a hub id such as facebook/dinov2-giant"
        )
    return hub_snapshot(name, None, (CONFIG, "*.safetensors", INDEX), fetch)


def _require_dinov2(source: TeacherSource, encoder: str, width: int) -> None:
    if not (source.root / CONFIG).is_file():
        raise ModelError(f"{source.root} has no {CONFIG}, so it holds no DINOv2; see crepa_encoder_path")
    found = source.config
    described = {name: found.get(name) for name in ("model_type", "patch_size", "hidden_size")}
    expected = {"model_type": "dinov2", "patch_size": PATCH, "hidden_size": width}
    if described != expected:
        raise ModelError(
            f"{source.root} holds {described}, but crepa_encoder {encoder} is {expected}; set crepa_encoder "
            "to the size that it has, or crepa_encoder_path to other weights"
        )


def _tiny(directory: Path, fetch: bool) -> Path:
    if stamp_of(directory) != TINY_TEACHER_STAMP:
        if not fetch:
            raise ModelError(
                f"the tiny teacher is not in {directory} yet; the train-ltx2 and embed-frames flows write "
                "it, and so does ltxcore.models.teacher.prepare_teacher"
            )
        from ltxcore.models.tiny.teacher import write_tiny_teacher

        write_tiny_teacher(directory, TINY_TEACHER_STAMP)
    return directory
