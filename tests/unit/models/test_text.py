"""Caption features in two steps against the pipeline's own text encoding in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import LTX2Pipeline
from safetensors.torch import load_file, save_file

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files import loading
from ltxcore.models.files.source import ModelSource, resolve_model
from ltxcore.models.text.caption_encoder import CaptionEncoder, TextFeatures, load_feature_extractor
from ltxcore.models.text.text_connectors import connect
from ltxcore.models.versions import VERSIONS
from tests.rounding import assert_alike, terms_of

CAPTIONS = ["a red ball rolls over wet grass", "", "  Schnee fällt – 雪  ", "x" * 300]


@pytest.fixture(scope="module", params=VERSIONS)
def source(request: pytest.FixtureRequest, tinies: dict[str, ModelSource]) -> ModelSource:
    return tinies[request.param]


def _encoder(source: ModelSource, feature_dtype: torch.dtype = torch.float32) -> CaptionEncoder:
    return CaptionEncoder(
        *loading.load_text_encoder(source, torch.float32, "cpu"),
        load_feature_extractor(source, torch.float32, "cpu"),
        source.text_max_tokens,
        feature_dtype,
    )


def test_features_and_connectors_give_the_pipelines_embeddings(source: ModelSource) -> None:
    pipeline = LTX2Pipeline.from_pretrained(source.root, local_files_only=True)
    # The pipeline leaves BOS to a tokenizer that may not add it.
    begin = "" if source.version.text_encoder.tuned is None else "<bos>"
    prompts = [f"{begin}{caption.strip()}" for caption in CAPTIONS]
    with torch.no_grad():
        hidden, mask = pipeline._get_gemma_prompt_embeds(prompts, max_sequence_length=128)
        video, audio, _ = pipeline.connectors(hidden, mask)

    features = _encoder(source).encode(CAPTIONS)
    connectors = loading.load_connectors(source, torch.float32, "cpu")
    found_video, found_audio = connect(connectors, features, source.text_max_tokens)
    assert found_video.shape == video.shape
    assert found_audio.shape == audio.shape
    # Only the order of additions differs.
    terms = terms_of(pipeline.text_encoder, pipeline.connectors)
    assert_alike(found_video, video, terms)
    assert_alike(found_audio, audio, terms)


def test_the_extractor_and_connect_are_exact_on_the_same_hidden_states(source: ModelSource) -> None:
    connectors = loading.load_connectors(source, torch.float32, "cpu")
    extractor = load_feature_extractor(source, torch.float32, "cpu")
    hidden = torch.randn(2, 32, 48, 4, generator=torch.Generator().manual_seed(0)) * 5 + 1
    lengths = [32, 9]
    mask = torch.zeros(2, 32, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, 32 - length :] = 1
    with torch.no_grad():
        video, audio, _ = connectors(hidden, mask)
        pairs = [extractor(hidden[row, 32 - length :]) for row, length in enumerate(lengths)]
    features = [TextFeatures(*pair) for pair in pairs]
    found_video, found_audio = connect(connectors, features, 32)
    assert_alike(found_video, video, terms_of(connectors))
    assert_alike(found_audio, audio, terms_of(connectors))


def test_a_caption_has_the_same_features_alone_and_in_company(source: ModelSource) -> None:
    encoder = _encoder(source, torch.bfloat16)
    together = encoder.encode(CAPTIONS)
    for caption, expected in zip(CAPTIONS, together, strict=True):
        (alone,) = encoder.encode([caption])
        assert torch.equal(alone.video, expected.video)
        assert (alone.audio is None) == (source.version.name == "2.0")
        if alone.audio is not None and expected.audio is not None:
            assert torch.equal(alone.audio, expected.audio)


def test_features_are_real_tokens_only_and_truncation_is_reported(source: ModelSource) -> None:
    ball, empty, stripped, long = _encoder(source, torch.bfloat16).encode(CAPTIONS)
    assert [len(f.video) for f in (ball, empty, stripped, long)] == [32, 1, 22, 128]
    assert [f.truncated_from for f in (ball, empty, stripped, long)] == [0, 0, 0, 301]
    width = 48 if source.version.name == "2.0" else 64
    assert ball.video.shape == (32, width)
    assert ball.video.dtype == torch.bfloat16
    assert torch.isfinite(empty.video).all()
    if ball.audio is not None:
        assert ball.audio.shape == (32, 32)


def test_the_extractor_reads_its_own_tensors_from_one_file_or_shards(
    source: ModelSource, tmp_path: Path
) -> None:
    whole = load_feature_extractor(source, torch.bfloat16, "cpu")
    assert all("connector" not in name for name, _ in whole.named_parameters())
    assert {p.dtype for p in whole.parameters()} == {torch.bfloat16}

    configs = [f"{part}/config.json" for part in ("transformer", "connectors", "text_encoder")]
    for name in ("model_index.json", *configs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((source.root / name).read_bytes())
    (file,) = source.weight_files("connectors")
    tensors = load_file(file)
    shards = {
        name: f"diffusion_pytorch_model-0000{n % 2 + 1}-of-00002.safetensors"
        for n, name in enumerate(tensors)
    }
    for shard in set(shards.values()):
        held = {name: tensors[name] for name, at in shards.items() if at == shard}
        save_file(held, tmp_path / "connectors" / shard, {"format": "pt"})
    index = tmp_path / "connectors" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    sharded = resolve_model(ModelSettings(pretrained_model_name_or_path=str(tmp_path)), tmp_path)
    found = load_feature_extractor(sharded, torch.bfloat16, "cpu").state_dict()
    assert set(found) == set(whole.state_dict())
    assert all(torch.equal(found[name], value) for name, value in whole.state_dict().items())

    index.write_text(json.dumps({"weight_map": {k: v for k, v in shards.items() if "proj_in" not in k}}))
    (tmp_path / "connectors" / shards[next(n for n in shards if "text_proj_in" in n)]).unlink()
    with pytest.raises(ModelError, match=r"connectors in .* lack"):
        load_feature_extractor(sharded, torch.bfloat16, "cpu")


def test_connect_refuses_captions_that_do_not_fit(source: ModelSource) -> None:
    connectors = loading.load_connectors(source, torch.float32, "cpu")
    (feature,) = _encoder(source).encode([CAPTIONS[0]])
    with pytest.raises(ValueError, match="a caption has 32 tokens, but the connectors were given 16 slots"):
        connect(connectors, [feature], 16)
    if feature.audio is not None:
        with pytest.raises(ValueError, match="features of different versions"):
            connect(connectors, [feature, TextFeatures(feature.video)], 128)


@pytest.mark.parametrize("version", ["2.0", "2.5"])
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_gemma_under_group_offload_gives_the_same_features(
    kind: str, version: str, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    from ltxcore.memory.arrangement import GroupSettings
    from ltxcore.memory.streaming.group_offload import NotOffloadable, group_hooks, offload_layers

    source = tinies[version]

    def features(settings: GroupSettings | None) -> list[torch.Tensor]:
        tokenizer, model = loading.load_text_encoder(source, torch.bfloat16, "cpu")
        if settings is not None:
            offload_layers(model, "cpu", settings)
            assert list(group_hooks(model))
        extractor = load_feature_extractor(source, torch.bfloat16, "cpu")
        encoder = CaptionEncoder(tokenizer, model, extractor, source.text_max_tokens, device="cpu")
        return [feature.video for feature in encoder.encode(CAPTIONS)]

    found = features(GroupSettings(kind=kind))  # type: ignore[arg-type]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, features(None), strict=True))
    with pytest.raises(NotOffloadable, match="text_encoder_loading: layer_by_layer"):
        features(GroupSettings(disk=tmp_path))


def test_each_caption_is_connected_as_if_it_were_alone(tinies: dict[str, ModelSource]) -> None:
    from ltxcore.models.text.text_connectors import ConnectedCaption, PrecomputedConnectors

    source = tinies["2.0"]
    connectors = loading.load_connectors(source, torch.bfloat16, "cpu")
    draw = torch.Generator().manual_seed(0)
    captions = [TextFeatures(torch.randn(n, 48, generator=draw).bfloat16()) for n in (1, 5, 9)]
    together = connect(connectors, captions, source.text_max_tokens)
    alone = [connect(connectors, [caption], source.text_max_tokens) for caption in captions]
    for part in (0, 1):
        assert torch.equal(together[part], torch.cat([pair[part] for pair in alone]))
    done = [ConnectedCaption(video[0], audio[0]) for video, audio in alone]
    stand_in = PrecomputedConnectors(torch.device("cpu"), torch.bfloat16)
    again = connect(stand_in, done, source.text_max_tokens)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, together, strict=True))
