"""rsLoRA, DoRA, LoKr and LoHa: how they start, on any base, and their files as others read them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.memory.arrangement import Arrangement, GroupSettings
from ltxcore.memory.placement import Placement
from ltxcore.models.lora.names import reference_name
from ltxcore.models.lycoris import NoFactorisation, load_lycoris
from ltxcore.models.tiny.model import write_tiny
from ltxcore.training.adapters import take_adapter
from ltxcore.training.export import Lineage, export_lora
from ltxcore.training.lora import add_lora, lora_parameters, preset_modules, target_modules
from ltxcore.training.targets import UnknownTarget
from tests.rounding import assert_alike, terms_of
from tests.unit.toy_transformer import make_transformer, train
from tests.unit.training.test_lora import answer, load_transformer

LOKR = {"algo": "lokr", "linear_dim": 2, "linear_alpha": 3.0, "factor": 4, "multiplier": 1.5}
KINDS: dict[str, LoraSettings] = {
    "rslora": LoraSettings(lora_rank=4, lora_alpha=6.0, use_rslora=True),
    "dora": LoraSettings(lora_rank=4, lora_alpha=6.0, use_dora=True),
    "lokr": LoraSettings(lora_type="lycoris", lycoris_config=LOKR),  # type: ignore[arg-type]
    "lokr both": LoraSettings(
        lora_type="lycoris",
        lycoris_config={"algo": "lokr", "linear_dim": 1, "decompose_both": True},  # type: ignore[arg-type]
    ),
    "lokr whole": LoraSettings(
        lora_type="lycoris",
        lycoris_config={"algo": "lokr", "full_matrix": True, "factor": 4, "linear_dim": 9},  # type: ignore[arg-type]
    ),
    "loha": LoraSettings(
        lora_type="lycoris",
        lycoris_config={"algo": "loha", "linear_dim": 4, "linear_alpha": 2.0},  # type: ignore[arg-type]
    ),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_tiny(root, "2.0")
    return root


def adapted(tiny: Path, settings: LoraSettings, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    transformer = load_transformer(tiny, dtype)
    add_lora(transformer, settings, target_modules(transformer, with_audio=True), seed)
    return transformer


def disturb(transformer: Any) -> None:
    """As a training would: every parameter moves."""
    generator = torch.Generator().manual_seed(2)
    for parameter in lora_parameters(transformer).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_nothing_and_every_parameter_trains(tiny: Path, kind: str) -> None:
    transformer = adapted(tiny, KINDS[kind])
    assert_alike(answer(transformer), answer(load_transformer(tiny)), terms_of(transformer))
    parameters = lora_parameters(transformer)
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert not any(name.endswith("default") for name in parameters)
    disturb(transformer)
    with torch.enable_grad():
        answer.__wrapped__(transformer).square().sum().backward()  # type: ignore[attr-defined]
    still = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_belongs_to_seed_and_layer(tiny: Path, kind: str) -> None:
    torch.rand(7)
    starts = [
        {name: p.detach() for name, p in lora_parameters(adapted(tiny, KINDS[kind], seed=seed)).items()}
        for seed in (0, 0, 1)
    ]
    drawn = [name for name, value in starts[0].items() if value.any() and "magnitude" not in name]
    assert drawn
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not any(torch.equal(starts[0][name], starts[2][name]) for name in drawn)
    values = [starts[0][name] for name in drawn if ".0.attn" in name and starts[0][name].numel() > 4]
    assert not any(torch.equal(a, b) for a, b in pairwise(values) if a.shape == b.shape)


def export(transformer: Any, settings: LoraSettings, directory: Path) -> tuple[Path, Path]:
    adapter = take_adapter(transformer, lora_parameters(transformer))
    return export_lora(directory, "x", adapter, Lineage("base", "snapshot", Recipe(lora=settings)))


@pytest.mark.parametrize("kind", ["rslora", "dora"])
def test_diffusers_loads_the_file_back_equal(tiny: Path, tmp_path: Path, kind: str) -> None:
    from diffusers import LTX2Pipeline

    transformer = adapted(tiny, KINDS[kind])
    disturb(transformer)
    file, _ = export(transformer, KINDS[kind], tmp_path)
    pipeline = LTX2Pipeline.from_pretrained(tiny)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    plain, trained = answer(load_transformer(tiny)), answer(transformer)
    assert (trained - plain).abs().max() > 1e-2
    if kind == "dora":
        # Its lengths are summed up in another order by peft's own layer.
        assert_alike(answer(pipeline.transformer), trained, terms_of(transformer))
    else:
        assert torch.equal(answer(pipeline.transformer), trained)


@pytest.mark.parametrize("kind", ["lokr", "lokr both", "lokr whole", "loha"])
def test_a_lycoris_file_loads_back_equal_and_leaves_no_trace(tiny: Path, tmp_path: Path, kind: str) -> None:
    transformer = adapted(tiny, KINDS[kind])
    disturb(transformer)
    file, _ = export(transformer, KINDS[kind], tmp_path)
    loaded = load_transformer(tiny)
    weights = {name.removeprefix("transformer."): t for name, t in load_file(file).items()}
    load_lycoris(loaded, weights, "lora")
    plain, change = answer(load_transformer(tiny)), answer(transformer)
    assert (change - plain).abs().max() > 1e-3
    assert_alike(answer(loaded), change, terms_of(transformer))
    loaded.unload_lora()
    assert torch.equal(answer(loaded), plain)


def comfyui_weight(weight: torch.Tensor, file: Mapping[str, torch.Tensor], module: str) -> torch.Tensor:
    """What ComfyUI makes of a weight: its adapters' formulas, at strength 1 and without an alpha."""

    def part(name: str) -> torch.Tensor | None:
        found = file.get(f"diffusion_model.{module}.{name}")
        return None if found is None else found.float()

    def product(name: str) -> torch.Tensor:
        whole = part(name)
        if whole is not None:
            return whole
        left, right = part(f"{name}_a"), part(f"{name}_b")
        assert left is not None
        assert right is not None
        return left @ right

    up, down = part("lora_B.weight"), part("lora_A.weight")
    if up is not None and down is not None:
        changed = weight + up @ down
        scale = part("dora_scale")
        return changed if scale is None else changed * (scale / weight.norm(dim=1, keepdim=True))
    if part("hada_w1_a") is not None:
        return weight + product("hada_w1") * product("hada_w2")
    return weight + torch.kron(product("lokr_w1"), product("lokr_w2"))


@pytest.mark.parametrize("kind", KINDS)
def test_comfyuis_formula_gives_the_adapted_model(tiny: Path, tmp_path: Path, kind: str) -> None:
    transformer = adapted(tiny, KINDS[kind])
    disturb(transformer)
    _, file = export(transformer, KINDS[kind], tmp_path)
    weights = load_file(file)
    assert all(name.startswith("diffusion_model.") for name in weights)
    merged, used = load_transformer(tiny), 0
    for name, module in merged.named_modules():
        if isinstance(module, nn.Linear):
            new = comfyui_weight_or_none(module.weight.data, weights, reference_name(name))
            if new is not None:
                module.weight.data, used = new, used + 1
    assert used == 56
    plain, trained = answer(load_transformer(tiny)), answer(transformer)
    assert (answer(merged) - trained).abs().max() <= 0.03 * (trained - plain).abs().max()


def comfyui_weight_or_none(
    weight: torch.Tensor, file: Mapping[str, torch.Tensor], module: str
) -> torch.Tensor | None:
    if not any(name.startswith(f"diffusion_model.{module}.") for name in file):
        return None
    return comfyui_weight(weight, file, module)


def test_the_header_says_what_the_file_is(tiny: Path, tmp_path: Path) -> None:
    for kind, algo in (("dora", "dora"), ("loha", "loha")):
        for path in export(adapted(tiny, KINDS[kind]), KINDS[kind], tmp_path / kind):
            with safe_open(path, framework="pt") as file:
                assert file.metadata()["algo"] == algo
                assert Recipe.model_validate_json(file.metadata()["recipe"]).lora == KINDS[kind]


def test_lycoris_scales_by_one_where_both_factors_are_whole(tiny: Path) -> None:
    scales = take_adapter(whole := adapted(tiny, KINDS["lokr whole"]), lora_parameters(whole)).scales
    assert set(scales.values()) == {1.0}
    low = take_adapter(halved := adapted(tiny, KINDS["lokr"]), lora_parameters(halved)).scales
    assert 3.0 * 1.5 / 2 in low.values()


def test_a_preset_chooses_by_class_and_changes_the_factor(tiny: Path) -> None:
    settings = LoraSettings.model_validate(
        {
            "lora_type": "lycoris",
            "lycoris_config": {
                **LOKR,
                "full_matrix": True,
                "apply_preset": {
                    "target_module": ["Attention", "FeedForward"],
                    "module_algo_map": {"Attention": {"factor": 8}, "FeedForward": {"factor": 2}},
                },
            },
        }
    )
    transformer = load_transformer(tiny)
    targets = preset_modules(transformer, ["Attention", "FeedForward"], with_audio=False)
    assert {name.split(".")[2] for name in targets} == {"attn1", "attn2", "ff"}
    add_lora(transformer, settings, targets, seed=0)
    edges = {name: p.shape[0] for name, p in lora_parameters(transformer).items() if "lokr_w1" in name}
    assert {edge for name, edge in edges.items() if ".ff." in name} == {2}
    assert {edge for name, edge in edges.items() if ".attn" in name} == {8}
    assert set(lora_parameters(transformer)) == {
        n.replace(".default", "") for n, p in transformer.named_parameters() if p.requires_grad
    }
    with pytest.raises(UnknownTarget, match="did you mean `FeedForward`"):
        preset_modules(transformer, ["FedForward"], with_audio=True)


def quantised(kind: str) -> Any:
    """The toy with every block's linears in a quantised form, in bf16 beside."""
    from optimum import quanto

    transformer = make_transformer(3, torch.bfloat16)
    for block in transformer.transformer_blocks:
        # Narrower linears in int4 would have quanto compile an extension, for half a minute.
        quanto.quantize(block, weights=getattr(quanto, kind), include=["attn1*", "attn2*", "ff*"])
        quanto.freeze(block)
    return transformer.requires_grad_(False)


@pytest.mark.parametrize("base", ["bf16", "qint8", "qint4"])
@pytest.mark.parametrize("kind", ["dora", "lokr", "loha"])
def test_a_streamed_base_of_any_precision_trains_the_same(kind: str, base: str) -> None:
    def made() -> Any:
        return make_transformer(3, torch.bfloat16) if base == "bf16" else quantised(base)

    expected = train(made(), steps=2, dtype=torch.bfloat16, settings=KINDS[kind])
    assert all(loss > 0 for loss in expected.losses)
    transformer = made()
    # The test's own steps know nothing of devices: on the CPU the adapter is where the weights are.
    placement = Placement(transformer, Arrangement("block_streaming"), "cpu")
    train(
        transformer, steps=2, dtype=torch.bfloat16, settings=KINDS[kind], reading=placement.reading
    ).assert_equal(expected)


def test_groups_on_disk_are_read_for_the_lengths_of_a_dora(tmp_path: Path) -> None:
    expected = train(make_transformer(3), steps=1, settings=KINDS["dora"])
    transformer = make_transformer(3)
    groups = GroupSettings("block_level", 1, False, tmp_path)
    placement = Placement(transformer, Arrangement("group_offload", groups=groups), "cpu")
    train(transformer, steps=1, settings=KINDS["dora"], reading=placement.reading).assert_equal(expected)
    taken = take_adapter(transformer, lora_parameters(transformer), placement.reading)
    assert all(torch.isfinite(base).all() and base.all() for base, _ in taken.lengths.values())


def test_factors_that_peft_does_not_make_are_refused(tiny: Path) -> None:
    module = "transformer_blocks.0.attn1.to_q"
    weights = {f"{module}.lokr_w1": torch.zeros(2, 32), f"{module}.lokr_w2": torch.zeros(32, 2)}
    with pytest.raises(NoFactorisation, match=r"attn1\.to_q: peft makes no Kronecker factors 2x32 and 32x2"):
        load_lycoris(load_transformer(tiny), weights, "lora")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_type": "lycoris"}, "needs `lycoris_config`"),
        ({"lora_type": "lycoris", "lycoris_config": LOKR, "use_dora": True}, "use_dora belongs to lora_type"),
        ({"lora_type": "lycoris", "lycoris_config": LOKR, "lora_dropout": 0.1}, "write rank_dropout or"),
        ({"lycoris_config": {"algo": "locon"}}, "algo `locon` is not trained here: use lora_type standard"),
        ({"lycoris_config": {"algo": "oft"}}, "use lokr or loha"),
        ({"lycoris_config": {**LOKR, "use_tucker": True}}, "`use_tucker` is True"),
        ({"lycoris_config": {**LOKR, "dropout": 0.1}}, "write rank_dropout or module_dropout"),
        ({"lycoris_config": {**LOKR, "factor": 0}}, "factor 0 divides nothing"),
        ({"lycoris_config": {"algo": "loha", "factor": 8}}, "keys of algo lokr"),
        ({"lycoris_config": {**LOKR, "liner_dim": 8}}, "did you mean `linear_dim`"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LoraSettings.model_validate(settings)


def test_packed_weights_take_no_lycoris() -> None:
    packed = {"base_model_precision": "nf4-bnb"}
    with pytest.raises(ValidationError, match=r"base_model_precision nf4-bnb; use int8-quanto, or lora_type"):
        Recipe.model_validate({"model": packed, "lora": KINDS["lokr"].model_dump()})
    Recipe.model_validate({"model": packed, "lora": KINDS["dora"].model_dump()})


def test_keys_that_ask_for_nothing_are_taken() -> None:
    LoraSettings.model_validate(
        {"lora_type": "lycoris", "lycoris_config": {**LOKR, "dropout": 0, "use_tucker": False}}
    )
