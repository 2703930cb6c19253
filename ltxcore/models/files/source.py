"""A model on this machine, in either layout: its version, its parts and their fingerprints.

Nothing here imports torch: the parent process resolves models before any stage has started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.config.batch_size import AUTO
from ltxcore.config.model_settings import TINY_MODEL, ModelSettings
from ltxcore.config.weight_precisions import NO_CHANGE, PRECISIONS
from ltxcore.models.errors import ModelError
from ltxcore.models.files import precisions
from ltxcore.models.files.combined import (
    COMBINED_COMPONENTS,
    CombinedCheckpoint,
    open_combined,
    open_packs,
)
from ltxcore.models.files.encoders import encoder_config, encoder_weights
from ltxcore.models.files.gemma_tower import tower_weights
from ltxcore.models.files.hashes import remembered_hashes, remembered_part
from ltxcore.models.files.locate_weights import (
    TEXT_COMPONENTS,
    Found,
    find_model,
    find_parts,
    find_text,
    may_be_hub_id,
    require_flavour,
)
from ltxcore.models.files.packs import packs_of
from ltxcore.models.files.recognise import read_json, recognise
from ltxcore.models.files.tensor_file import StoredTensor, read_tensor_file
from ltxcore.models.files.text_encoder import require_text_encoder, tuning_wanted
from ltxcore.models.files.text_pack import TextPack, open_text_pack, text_pack
from ltxcore.models.files.weights import Weight, plain_weights
from ltxcore.models.tiny.stamp import stamp_of, tiny_stamp
from ltxcore.models.version import Version
from ltxcore.models.versions import COMPONENTS, TEXT_MAX_TOKENS
from ltxcore.store.fingerprint import fingerprint

TINY_DIRECTORY = "tiny-ltx2"
_TOKENIZER_SUFFIXES = {".json", ".model", ".txt", ".jinja"}
# What a writer notes about itself: it changes no number that a component computes.
_NOT_CONTENT = {"_diffusers_version", "_name_or_path", "transformers_version"}


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine: a directory in the diffusers layout, or a combined checkpoint and a Gemma."""

    root: Path
    """The directory, or the combined file."""
    version: Version
    text_root: Path
    """The directory or pack of Gemma and its tokenizer: the model's own unless the settings name another."""
    models_dir: Path
    """Where remembered hashes and quantised weights are kept."""
    combined: CombinedCheckpoint | None = None
    transformer_precision: str = NO_CHANGE
    text_encoder_precision: str = NO_CHANGE
    text: TextPack | None = None
    """Gemma and its tokenizer, where both are in one file."""

    def component(self, name: str) -> Path:
        """The directory of a component, or the file that it is part of; the first, where packs share it.

        Raises:
            ModelError: the model has no such component.
        """
        if name not in COMPONENTS:
            raise ModelError(f"{name!r} is not a component of LTX-2; known: {', '.join(COMPONENTS)}")
        if self.combined is not None and name in COMBINED_COMPONENTS:
            return next(iter(self.combined.files(name)), self.combined.path)
        if self.text is not None and name in TEXT_COMPONENTS:
            return self.text.path
        root = self.text_root if name in TEXT_COMPONENTS else self.root
        path = root / name
        # A Gemma directory as its makers publish it has model and tokenizer side by side.
        if name in TEXT_COMPONENTS and not path.is_dir() and (root / "config.json").is_file():
            path = root
        if not path.is_dir():
            raise ModelError(f"{root} has no {name}: the folder {path} does not exist; download it again")
        return path

    def check_text_encoder(self) -> None:
        """Refuse a text encoder that the model was not trained with.

        Raises:
            ModelError: it is missing, another Gemma, or not tuned as the transformer needs it.
        """
        metadata = {} if self.combined is None else self.combined.metadata
        require_text_encoder(
            self.version,
            self.config("text_encoder"),
            self.component("text_encoder"),
            tuning_wanted(self.version, metadata),
            own=self.text_root == self.root,
        )

    def precision(self, name: str) -> str:
        """The precision that the recipe asks for a component's linears; `no_change` by default.

        Raises:
            ModelError: it is `auto`, which the planner has to decide first.
        """
        chosen = {"transformer": self.transformer_precision, "text_encoder": self.text_encoder_precision}
        found = chosen.get(name, NO_CHANGE)
        if found == AUTO:
            raise ModelError(f"the precision of the {name} is auto, which the planner has not settled yet")
        return found

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of a component in diffusers' or transformers' names (the tokenizer's is
        tokenizer_config.json).

        Raises:
            ModelError: the component or its configuration is missing.
        """
        if self.combined is not None and name in COMBINED_COMPONENTS:
            return self.combined.config(name)
        if self.text is not None and name in TEXT_COMPONENTS:
            return self.text.config_of(name)
        return read_json(
            self.component(name) / ("tokenizer_config.json" if name == "tokenizer" else "config.json")
        )

    @property
    def text_max_tokens(self) -> int:
        """Tokens a caption is padded to for the connectors: 1024, or less where the tokenizer says so."""
        limit = self.config("tokenizer").get("model_max_length", TEXT_MAX_TOKENS)
        return min(TEXT_MAX_TOKENS, int(limit))

    def weight_files(self, name: str) -> list[Path]:
        """The safetensors files that loading a component reads, in a fixed order.

        Raises:
            ModelError: none are there, or the index names one that is not.
        """
        if self.combined is not None and name in COMBINED_COMPONENTS:
            return self.combined.files(name)
        directory = self.component(name)
        if directory.is_file():
            return [directory]
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        index = directory / f"{stem}.safetensors.index.json"
        if index.is_file():
            names = sorted(set(read_json(index)["weight_map"].values()))
        else:
            names = [f"{stem}.safetensors"]
        files = [directory / file for file in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelError(f"the {name} in {directory} lacks {', '.join(missing)}; download it again")
        return files

    def weights(self, name: str) -> dict[str, Weight]:
        """A component's weights, under the names of the model that loads them, from headers alone.

        Of the text encoder the language model's: the vision tower stays on disk.

        Raises:
            ModelError: the component is missing, or a file of it is cut short or no safetensors.
        """
        if self.combined is not None and name in COMBINED_COMPONENTS:
            return self.combined.weights(name)
        if self.text is not None and name == "text_encoder":
            return dict(self.text.tower)
        weights: dict[str, Weight] = {}
        for file in self.weight_files(name):
            weights.update(plain_weights(read_tensor_file(file).tensors))
        return tower_weights(weights) if name == "text_encoder" else weights

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Name -> shape of a component's weights once loaded."""
        return {key: weight.shape for key, weight in self.weights(name).items()}

    def resident_bytes(self, name: str, value_bytes: int) -> int:
        """Size of a component once loaded in a type of `value_bytes`, quantised as the recipe wants it."""
        return precisions.resident_bytes(name, self.shapes(name), value_bytes, self.precision(name))

    def fingerprint(self, name: str) -> str:
        """sha256 over a component's configuration and the contents of its weights, 64 hex digits.

        A quantised component is another one than the same weights unquantised. Contents are hashed once;
        later calls cost a stat a file.

        Raises:
            ModelError: the component is missing or incomplete.
        """
        found = self._content_fingerprint(name)
        precision = self.precision(name)
        return found if precision == NO_CHANGE else fingerprint({"of": found, "precision": precision})

    def encoder_fingerprint(self, name: str) -> str:
        """sha256 over what latents depend on of a VAE, 64 hex digits: its encoder and its statistics.

        Equal encoders have equal fingerprints, whatever their decoders are and in whichever layout they lie.

        Args:
            name: `vae` or `audio_vae`.

        Raises:
            ModelError: the component is missing or incomplete.
        """
        weights = encoder_weights(self.weights(name))
        contents = self._hashes_of_parts(f"{name} encoder", stored_parts(weights))
        return fingerprint(
            {
                "component": f"{name} encoder",
                "config": encoder_config(name, self.config(name)),
                "files": contents,
            }
        )

    def _content_fingerprint(self, name: str) -> str:
        config = {} if name == "tokenizer" else config_content(self.config(name))
        if self.text is not None and name == "tokenizer":
            contents = self._hashes_of_parts(name, self.text.assets)
        elif (self.combined is not None and name in COMBINED_COMPONENTS) or (
            self.text is not None and name == "text_encoder"
        ):
            contents = self._hashes_of_parts(name, stored_parts(self.weights(name)))
        else:
            files = _tokenizer_files(self.component(name)) if name == "tokenizer" else self.weight_files(name)
            hashes = remembered_hashes(files, self.models_dir)
            # File names are left out: the same weights under other names are the same component.
            contents = [hashes[path] for path in files]
        return fingerprint({"component": name, "config": config, "files": contents})

    def _hashes_of_parts(self, name: str, stored: Mapping[str, StoredTensor]) -> list[str]:
        """A hash for each file that holds some of these tensors, whatever the files are called."""
        by_file: dict[Path, dict[str, StoredTensor]] = {}
        for key, tensor in stored.items():
            by_file.setdefault(tensor.file, {})[key] = tensor
        return sorted(remembered_part(file, name, held, self.models_dir) for file, held in by_file.items())

    def tokenizer_directory(self) -> Path:
        """Where the tokenizer's files are; from a pack they are written first.

        Raises:
            ModelError: it is missing.
        """
        if self.text is not None:
            return self.text.unpack_tokenizer(self.models_dir / "tokenizers")
        return self.component("tokenizer")


def stored_parts(weights: Mapping[str, Weight]) -> dict[str, StoredTensor]:
    """The stored tensors of some weights, each under its weight's name and a number."""
    return {
        f"{key}#{number}": part for key, weight in weights.items() for number, part in enumerate(weight.parts)
    }


def _tokenizer_files(directory: Path) -> list[Path]:
    files = sorted(
        path for path in directory.iterdir() if path.suffix in _TOKENIZER_SUFFIXES and "token" in path.name
    )
    if not files:
        raise ModelError(f"the tokenizer in {directory} has no files; download it again")
    return files


def config_content(config: Any) -> Any:
    """A configuration without what its writer noted about itself, at any depth."""
    if isinstance(config, dict):
        return {key: config_content(value) for key, value in config.items() if key not in _NOT_CONTENT}
    if isinstance(config, list):
        return [config_content(value) for value in config]
    return config


def resolve_model(settings: ModelSettings, models_dir: Path) -> ModelSource:
    """Find the model of a recipe among what is on this machine. Writes and downloads nothing.

    Raises:
        ModelError: it is not here, is no LTX-2, or is not what the recipe's flavour says; the text says
            what to do.
    """
    return _resolve(settings, models_dir, fetch=False)


def check_model(settings: ModelSettings) -> None:
    """Refuse a model that could not even be fetched: wrong names, single files, and what is no LTX-2.

    Raises:
        ModelError: as `resolve_model`, but not where a first run writes or downloads what is missing.
    """
    names = [settings.pretrained_model_name_or_path, *filter(None, [settings.text_encoder])]
    names += [name.partition(":")[0] for name in settings.parts.values()]
    if all(name == TINY_MODEL or may_be_hub_id(name) for name in names):
        return
    resolve_model(settings, Path())


def prepare_model(settings: ModelSettings, models_dir: Path) -> ModelSource:
    """Like `resolve_model`, but first write the tiny model, or download a hub id, where it is not here.

    Raises:
        ModelError: as `resolve_model`, or the hub could not be reached.
    """
    return _resolve(settings, models_dir, fetch=True)


def _resolve(settings: ModelSettings, models_dir: Path, fetch: bool) -> ModelSource:
    for name in (settings.base_model_precision, settings.text_encoder_1_precision):
        if name not in (NO_CHANGE, AUTO):
            precisions.require_library(PRECISIONS[name])
    parts = find_parts(settings, fetch)
    found = _found(settings, models_dir, parts, fetch)
    combined = _combined(found, parts)
    version = recognise(found.root) if combined is None else combined.version
    require_flavour(settings, found.root, version, combined)
    text_root, text = _text(settings, found.root, version, combined, parts, fetch)
    source = ModelSource(
        found.root,
        version,
        text_root,
        models_dir,
        combined,
        settings.base_model_precision,
        settings.text_encoder_1_precision,
        text,
    )
    source.check_text_encoder()
    return source


def _found(settings: ModelSettings, models_dir: Path, parts: dict[str, Path], fetch: bool) -> Found:
    """Where the model is that the parts come on top of; the transformer's directory where they are all."""
    if settings.pretrained_model_name_or_path != TINY_MODEL:
        return find_model(settings, fetch)
    if "transformer" in parts:
        return Found(parts["transformer"].parent, tuple(dict.fromkeys(_files(parts))))
    if parts:
        raise ModelError(
            f"model.parts gives {', '.join(parts)} and no transformer; name it too, or the model that they "
            "are for by model.pretrained_model_name_or_path"
        )
    return Found(_tiny(models_dir / TINY_DIRECTORY, fetch))


def _combined(found: Found, parts: dict[str, Path]) -> CombinedCheckpoint | None:
    if found.packs or (parts and found.root.is_file()):
        own = found.packs or (found.root,)
        return open_packs(packs_of(dict.fromkeys([*own, *_files(parts)])), parts)
    if parts and set(parts) != {"text_encoder"}:
        raise ModelError(
            f"model.parts gives {', '.join(parts)}, but {found.root} is in the diffusers layout, where a "
            "part is a folder; give a checkpoint or packs by model.pretrained_model_name_or_path"
        )
    return open_combined(found.root) if found.root.is_file() else None


def _files(parts: dict[str, Path]) -> list[Path]:
    return [path for path in parts.values() if path.is_file()]


def _text(
    settings: ModelSettings,
    root: Path,
    version: Version,
    combined: CombinedCheckpoint | None,
    parts: dict[str, Path],
    fetch: bool,
) -> tuple[Path, TextPack | None]:
    """Where Gemma is, and what it is if it is one file."""
    wanted = version.text_encoder
    remedy = f"give {wanted.name}, a directory or hub id such as {wanted.source}, by model.text_encoder"
    named = parts.get("text_encoder")
    own = None if combined is None or settings.text_encoder else combined.text
    if own is not None and named in (None, own.path):
        return own.path, text_pack(own, remedy)
    place = named or find_text(settings, root, version, fetch)
    return place, open_text_pack(place, remedy) if place.is_file() else None


def _tiny(directory: Path, fetch: bool) -> Path:
    if stamp_of(directory) != tiny_stamp():
        if not fetch:
            raise ModelError(
                f"this version of the tiny model is not in {directory} yet; `ltx2 run` and the train-ltx2 "
                "flow write it. If another model was meant, name its recipe by --recipe"
            )
        from ltxcore.models.tiny.model import write_tiny

        write_tiny(directory)
    return directory
