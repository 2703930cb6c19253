"""Captions through Gemma layer by layer, against the whole model."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files import loading
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.text.caption_encoder import CaptionEncoder, TextFeatures, load_feature_extractor
from ltxcore.models.text.gemma_layers import GemmaLayers, LayeredCaptionEncoder, TowerFile
from ltxcore.models.tiny.model import write_tiny
from ltxcore.models.versions import VERSIONS
from tests.rounding import bound, terms_of

CAPTIONS = ["a red ball rolls over wet grass", "", "  Schnee fällt – 雪  ", "x" * 300, "a red ball"]


def _source(directory: Path) -> ModelSource:
    return resolve_model(ModelSettings(pretrained_model_name_or_path=str(directory)), directory.parent)


@pytest.fixture(scope="module", params=VERSIONS)
def source(request: pytest.FixtureRequest, tinies: dict[str, ModelSource]) -> ModelSource:
    return tinies[request.param]


def _layered(source: ModelSource, dtype: torch.dtype) -> LayeredCaptionEncoder:
    return LayeredCaptionEncoder(
        loading.load_tokenizer(source),
        GemmaLayers(source, dtype, "cpu"),
        load_feature_extractor(source, dtype, "cpu"),
        source.text_max_tokens,
        torch.float32,
    )


def _whole(source: ModelSource, dtype: torch.dtype) -> list[TextFeatures]:
    encoder = CaptionEncoder(
        *loading.load_text_encoder(source, dtype, "cpu"),
        load_feature_extractor(source, dtype, "cpu"),
        source.text_max_tokens,
        torch.float32,
    )
    return encoder.encode(CAPTIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_those_of_the_whole_model(source: ModelSource, dtype: torch.dtype) -> None:
    model = loading.load_text_model(source, torch.float32, "cpu")
    # The whole model rounds its sum to bf16 once, as the layered one does: they differ by that at most.
    exact = dtype == torch.float32
    for found, expected in zip(_layered(source, dtype).encode(CAPTIONS), _whole(source, dtype), strict=True):
        assert found.truncated_from == expected.truncated_from
        assert (found.audio is None) == (expected.audio is None)
        for ours, theirs in ((found.video, expected.video), (found.audio, expected.audio)):
            if ours is not None and theirs is not None:
                assert ours.shape == theirs.shape
                allowed = bound(terms_of(model), 1.0) if exact else torch.finfo(dtype).eps
                assert (ours - theirs).abs().max() <= allowed * theirs.abs().max()


def test_states_are_the_whole_models_to_the_bit(source: ModelSource) -> None:
    tokens = [2, 5, 6, 7, 8]
    model = loading.load_text_model(source, torch.float32, "cpu")
    positions = torch.arange(128 - len(tokens), 128)[None]
    whole = model(
        input_ids=torch.tensor([tokens]), position_ids=positions, output_hidden_states=True, use_cache=False
    ).hidden_states
    seen = []
    for number, states in GemmaLayers(source, torch.float32, "cpu").states([tokens], 128):
        assert torch.equal(states[0], whole[number][0]), f"hidden state {number}"
        seen.append(number)
    assert seen == [0, 1, 2, 3]


def test_a_caption_does_not_depend_on_its_neighbours(source: ModelSource) -> None:
    encoder = _layered(source, torch.bfloat16)
    together = encoder.encode(CAPTIONS)
    for caption, expected in zip(CAPTIONS, together, strict=True):
        assert torch.equal(encoder.encode([caption])[0].video, expected.video)
    assert encoder.encode([]) == []


def test_weights_are_read_once_a_batch_and_two_layers_are_in_memory_at_most(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = _layered(source, torch.float32)
    reads: list[str] = []
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    original = TowerFile.read

    def counted(self: TowerFile, names: list[str], *args: object, **more: object) -> list[torch.Tensor]:
        nonlocal most
        reads.extend(names)
        tensors = original(self, names, *args, **more)  # type: ignore[arg-type]
        alive.extend(weakref.ref(tensor) for tensor in tensors if names[0].startswith("layers."))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return tensors

    monkeypatch.setattr(TowerFile, "read", counted)
    encoder.encode(CAPTIONS)
    assert len(reads) == len(set(reads)), "a weight was read twice"
    assert {name.split(".")[1] for name in reads if name.startswith("layers.")} == {"0", "1", "2"}
    weights_a_layer = sum(name.startswith("layers.0.") for name in reads)
    assert most <= 2 * weights_a_layer


def test_a_file_that_lacks_a_weight_is_refused_before_any_layer_is_read(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny")
    shutil.copytree(tmp_path / "tiny", tmp_path / "broken")
    file = tmp_path / "broken" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    gone = next(name for name in tensors if "layers.2.mlp.up_proj" in name)
    save_file({name: t for name, t in tensors.items() if name != gone}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.up_proj\.weight: missing instead of"):
        GemmaLayers(_source(tmp_path / "broken"), torch.float32, "cpu")
