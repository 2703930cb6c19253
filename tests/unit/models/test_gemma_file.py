"""ComfyUI's text encoder: a Gemma 3 in one file, with sentencepiece's model in it and no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3TextConfig, Gemma3TextModel

from ltxcore.models.errors import ModelError
from ltxcore.models.files import loading
from ltxcore.models.files.gemma_tower import gemma_3_config, tower_weights
from ltxcore.models.files.source import ModelSource
from ltxcore.models.files.spm_tokenizer import tokenizer_files
from ltxcore.models.files.tensor_file import read_tensor_file
from ltxcore.models.files.weights import Weight
from ltxcore.models.text.caption_encoder import caption_tokens, load_feature_extractor
from ltxcore.models.text.gemma_layers import GemmaLayers, LayeredCaptionEncoder
from tests.unit.models.combined_files import open_source, resolve
from tests.unit.models.pack_files import TEXT, split

PUBLISHED = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "model_type": "gemma3_text",
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
}
"""google/gemma-3-12b-it's config.json, without its other towers."""
WORDS = ("re", "red", "▁re", "▁red", "ba", "ll", "ball", "▁ball")
CHARACTERS = tuple("▁abdelr☃")


def spm() -> bytes:
    """A small model of sentencepiece's with Gemma's special tokens, pieces of bytes, and some words."""
    from transformers.utils import sentencepiece_model_pb2_new as pb

    model = pb.ModelProto()
    control, unknown, user, byte, normal = 3, 2, 4, 6, 1
    kinds = [("<pad>", control), ("<eos>", control), ("<bos>", control), ("<unk>", unknown)]
    kinds += [("<start_of_turn>", user), ("\n", user), ("▁▁", user)]
    kinds += [(f"<0x{number:02X}>", byte) for number in range(256)]
    kinds += [(word, normal) for word in (*WORDS, *CHARACTERS)]
    for rank, (text, kind) in enumerate(kinds):
        model.pieces.add(piece=text, score=-float(rank), type=kind)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def gemma_file(path: Path, source: ModelSource, scaled: bool = False) -> Path:
    """The tiny model's Gemma as ComfyUI keeps one."""
    (file,) = source.weight_files("text_encoder")
    found = {f"model.{name}": tensor for name, tensor in tower_weights(load_file(file)).items()}
    vocabulary = len(CHARACTERS) + len(WORDS) + 263
    embeddings = found["model.embed_tokens.weight"]
    found["model.embed_tokens.weight"] = torch.randn(vocabulary, embeddings.shape[1])
    if scaled:
        name = "model.layers.0.mlp.up_proj.weight"
        found[name] = found[name].to(torch.float8_e4m3fn)
        found["model.layers.0.mlp.up_proj.weight_scale"] = torch.tensor(1.0)
    found["spiece_model"] = torch.frombuffer(bytearray(spm()), dtype=torch.uint8)
    found["vision_model.post_layernorm.weight"] = torch.zeros(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
    return path


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "fp8-scaled"])
def test_it_is_the_whole_text_encoder(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path, scaled: bool
) -> None:
    file = gemma_file(tmp_path / "gemma.safetensors", tinies["2.0"], scaled)
    source = resolve(combined / "2.0-bf16.safetensors", tmp_path, text_encoder=str(file))
    tokenizer, model = loading.load_text_encoder(source, torch.float32, "cpu")
    expected = Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=279, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=12, sliding_window=1024,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        )
    ).eval()  # fmt: skip
    stored = load_file(file)
    expected.load_state_dict(
        {name: stored[f"model.{name}"].float() for name in expected.state_dict()}, strict=True
    )
    ids = torch.tensor([caption_tokens(tokenizer, "a red ball")])
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids).last_hidden_state for m in (model, expected))
    assert torch.equal(ours, theirs)
    encoder = LayeredCaptionEncoder(
        tokenizer,
        GemmaLayers(source, torch.float32, "cpu"),
        load_feature_extractor(source, torch.float32, "cpu"),
        source.text_max_tokens,
    )
    assert torch.isfinite(encoder.encode(["a red ball"])[0].video).all()
    assert source.text_max_tokens == 1024
    other = open_source(combined / "2.0-bf16.safetensors", tinies, tmp_path)
    for name in ("text_encoder", "tokenizer"):
        assert source.fingerprint(name) != other.fingerprint(name)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        # What sentencepiece 0.2.3 makes of them with the same model.
        ("a red ball", ["a", "▁red", "▁ball"]),
        ("red  ball\nba", ["red", "▁▁", "ball", "\n", "ba"]),
        ("é☃ a", ["<0xC3>", "<0xA9>", "☃", "▁", "a"]),
        ("<start_of_turn>red", ["<start_of_turn>", "red"]),
    ],
)
def test_captions_become_the_tokens_that_sentencepiece_makes(
    tmp_path: Path, text: str, pieces: list[str]
) -> None:
    from transformers import AutoTokenizer

    for name, content in tokenizer_files(spm(), "a file").items():
        (tmp_path / name).write_bytes(content)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert tokenizer.convert_ids_to_tokens(caption_tokens(tokenizer, text)) == ["<bos>", *pieces]
    assert (tokenizer.pad_token_id, tokenizer.padding_side) == (0, "left")


def test_the_configuration_is_the_published_one_s_at_the_released_size(tmp_path: Path) -> None:
    shapes = {
        "embed_tokens": (262208, 3840),
        "layers.0.self_attn.q_norm": (256,),
        "layers.0.self_attn.q_proj": (4096, 3840),
        "layers.0.self_attn.k_proj": (2048, 3840),
        "layers.0.mlp.gate_proj": (15360, 3840),
        "layers.47.self_attn.q_norm": (256,),
    }
    save_file({"any": torch.zeros(1)}, tmp_path / "any.safetensors")
    (stored,) = read_tensor_file(tmp_path / "any.safetensors").tensors.values()
    tower = {f"{name}.weight": Weight(shape, stored) for name, shape in shapes.items()}
    ours = Gemma3TextConfig.from_dict(gemma_3_config(tower))
    theirs = Gemma3Config.from_dict(PUBLISHED).get_text_config()
    assert ours.to_diff_dict() == theirs.to_diff_dict()
    assert ours.rope_parameters == theirs.rope_parameters


def test_it_may_lie_among_the_packs_of_2_3_and_is_refused_for_2_5(
    tinies: dict[str, ModelSource], combined: Path, tmp_path: Path
) -> None:
    packs = split(combined / "2.3-bf16.safetensors", tinies["2.3"], tmp_path / "2.3")
    file = gemma_file(packs / "text_encoders/gemma_3_12B_it.safetensors", tinies["2.3"])
    assert resolve(packs, tmp_path).component("text_encoder") == file
    newer = split(combined / "2.5-bf16.safetensors", tinies["2.5"], tmp_path / "2.5")
    with pytest.raises(ModelError, match=r"is a gemma3_text, but LTX-2\.5 reads the Gemma 4 12B"):
        resolve(newer, tmp_path, text_encoder=str(file))
    (newer / TEXT).unlink()


@pytest.mark.parametrize("model", [b"\x0a\xff", spm()[:40], b""])
def test_a_tokenizer_that_is_none_is_refused(model: bytes) -> None:
    told = r"the tokenizer in a\.safetensors (does not parse|is none of Gemma's)"
    with pytest.raises(ModelError, match=told):
        tokenizer_files(model, "a.safetensors")
