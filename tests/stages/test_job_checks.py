"""What a later stage would refuse is refused before the first: by validate, run, parent and stages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from flows.cli.app import app
from flows.hub_token import may_be_token
from ltxcore.config.base import parse
from ltxcore.config.batch_size import UndecidedBatchSize
from ltxcore.config.recipe import Recipe
from ltxcore.jobs.checks.job_checks import CHECKS, JobRefused, check_clips, check_job, check_stage, refusals
from ltxcore.memory import device
from ltxcore.memory.arrangement import Arrangement, StrategyUnavailable
from ltxcore.memory.plan import OverBudget
from ltxcore.models.files import precisions
from ltxcore.models.files.loading import load_transformer
from ltxcore.pipeline.base import here as machine
from ltxcore.pipeline.base.contract import JUDGE, PROBE, RENDER, TEXT, TRAIN
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.plan.arrangements import training_memory
from ltxcore.stages.train_lora import checks
from ltxcore.training import checkpoints, extras
from ltxcore.training.batch_schedule import BucketTooSmall
from ltxcore.training.compilation import compile_blocks
from ltxcore.training.targets import BLOCK_CLASSES
from tasks.checks import check
from tests.stages.conftest import Bench
from tests.unit.models.lora_files import draw
from tests.unit.models.lora_files import write as write_lora

CPU = Here(device="cpu", devices=None)
REGULARISED = "\n- {id: r, dataset_type: video, instance_data_dir: clips, is_regularisation_data: true}\n"


def adapter(file: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file)


def foreign_adapter(bench: Bench) -> None:
    names = ("lora_A.weight", "lora_B.weight")
    adapter(
        bench.root / "flux.safetensors", {f"transformer.single_blocks.0.linear1.{n}": (4, 8) for n in names}
    )


def whole_model(bench: Bench) -> None:
    adapter(bench.root / "model.safetensors", {"transformer.transformer_blocks.0.attn1.to_q.weight": (8, 8)})


def wide_adapter(bench: Bench) -> None:
    name = "diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight"
    adapter(bench.root / "wide.safetensors", {name: (4, 4096)})


def adapter_of_2_3(bench: Bench) -> None:
    """Every layer of it is in 2.0 too."""
    name = "diffusion_model.transformer_blocks.0.attn1.to_q"
    width = bench.ctx.source.shapes("transformer")["transformer_blocks.0.attn1.to_q.weight"]
    tensors = {"lora_A": torch.zeros(4, width[1]), "lora_B": torch.zeros(width[0], 4)}
    file = bench.root / "newer.safetensors"
    save_file({f"{name}.{key}.weight": t for key, t in tensors.items()}, file, {"model_version": "2.3.0"})


def sharded(bench: Bench) -> None:
    (bench.root / "fsdp.yaml").write_text("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}\n")
    with (bench.root / "datasets.yaml").open("a") as file:
        file.write(REGULARISED)


def lora_of_another_version(bench: Bench) -> None:
    shapes = {"transformer_blocks.0.attn1.to_q": (64, 64)}
    write_lora(bench.root / "new.safetensors", draw(shapes, shapes), metadata={"base_version": "2.3"})


def lora_of_more_layers(bench: Bench) -> None:
    shapes = {"transformer_blocks.0.ff.net.2": (64, 256)}
    write_lora(bench.root / "more.safetensors", draw(shapes, shapes))


def wide_lora(bench: Bench) -> None:
    shapes = {"transformer_blocks.0.attn1.to_q": (4096, 4096)}
    write_lora(bench.root / "wide.safetensors", draw(shapes, shapes))


def whole_lycoris(bench: Bench) -> None:
    name = "transformer.transformer_blocks.0.attn1.to_q.lokr_w1"
    adapter(bench.root / "lokr.safetensors", {name: (2, 2)})


def edited(component: str, **changes: Any) -> Callable[[Bench], None]:
    """The tiny model beside the bench, with another configuration of a component."""

    def edit(bench: Bench) -> None:
        source = bench.ctx.source.root
        copy = bench.root / "model"
        copy.mkdir()
        for part in source.iterdir():
            (copy / part.name).symlink_to(part)
        (copy / component).unlink()
        (copy / component).mkdir()
        for part in (source / component).iterdir():
            if part.name != "config.json":
                (copy / component / part.name).symlink_to(part)
        config = json.loads((source / component / "config.json").read_text())
        (copy / component / "config.json").write_text(json.dumps({**config, **changes}))

    return edit


def nothing(bench: Bench) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """A recipe that some stage would refuse, and what is to be said of it."""

    check: str
    recipe: dict[str, Any]
    words: str
    prepare: Callable[[Bench], None] = nothing
    here: Here = field(default_factory=lambda: CPU)


MODEL = {"pretrained_model_name_or_path": "ROOT/model"}
DORA = {"algo": "lokr", "linear_dim": 4, "factor": 2}
CASES = (
    Case("datasets", {"evaluation": {"eval_datasets": ["clip"]}}, "evaluation.eval_datasets: `clip` is no"),
    Case(
        "model", {"model": {"pretrained_model_name_or_path": "./nowhere"}}, "neither a file nor a directory"
    ),
    Case("model", {"model": MODEL}, "is a llama, but LTX-2.0", edited("text_encoder", model_type="llama")),
    Case(
        "precision of the transformer",
        {"model": {"base_model_precision": "int8-torchao"}},
        "int8-torchao needs",
    ),
    Case("precision of Gemma", {"model": {"text_encoder_1_precision": "nf4-bnb"}}, "nf4-bnb needs"),
    Case(
        "causal VAE",
        {"model": MODEL, "encode": {"vae_enable_patch_conv": True}},
        "vae_enable_patch_conv",
        edited("vae", encoder_causal=False),
    ),
    Case("reading of Gemma", {"memory": {"ramtorch_text_encoder": True}}, "ramtorch_text_encoder keeps"),
    Case(
        "reading of Gemma",
        {"model": {"text_encoder_loading": "group_offload"}, "memory": {"group_offload_use_stream": True}},
        "group_offload_use_stream needs a CUDA device",
    ),
    Case(
        "reading of Gemma",
        {"model": {"text_encoder_loading": "group_offload"}, "memory": {"group_offload_to_disk_path": "x"}},
        "group_offload_to_disk_path is for the transformer",
    ),
    Case("strategy", {"memory": {"ramtorch": True}}, "leave ramtorch out"),
    Case("strategy", {"memory": {"strategy": "ramtorch"}}, "leave ramtorch out"),
    Case(
        "strategy",
        {"memory": {"enable_group_offload": True, "group_offload_use_stream": True}},
        "group_offload_use_stream needs a CUDA device",
    ),
    Case(
        "strategy",
        {"memory": {"enable_group_offload": True}, "model": {"base_model_precision": "int8-quanto"}},
        "base_model_precision int8-quanto",
    ),
    Case("blocks", {"memory": {"musubi_blocks_to_swap": 47}}, "musubi_blocks_to_swap is 47"),
    Case("blocks", {"memory": {"resident_blocks": 40}}, "resident_blocks is 40"),
    Case(
        "group files",
        {"memory": {"enable_group_offload": True, "group_offload_to_disk_path": "ROOT/datasets.yaml/x"}},
        "group_offload_to_disk_path is",
    ),
    Case(
        "compilation",
        {"training": {"torch_compile": True}, "memory": {"strategy": "block_streaming"}},
        "training.torch_compile needs",
    ),
    Case(
        "processes", {"processes": {"count": 3}}, "processes.count: is 3", here=Here(device="cuda", devices=2)
    ),
    Case(
        "regularisation",
        {
            "processes": {"count": 2, "accelerate_config": "ROOT/fsdp.yaml"},
            "training": {"optimizer": "adamw"},
        },
        "processes.accelerate_config: shards",
        sharded,
    ),
    Case(
        "preservation",
        {"preservation": {"class_prompt_probability": 0.2, "class_prompt": "a dog"}},
        "preservation.class_prompt: takes the trigger's place in the captions, and there is no trigger",
    ),
    Case(
        "regularisation",
        {
            "processes": {"count": 2, "accelerate_config": "ROOT/fsdp.yaml"},
            "training": {"optimizer": "adamw"},
            "preservation": {"blank_prompt_probability": 0.2},
        },
        "a preservation batch runs it twice",
        sharded,
    ),
    Case("optimizer", {"training": {"optimizer": "prodigy"}}, "training.optimizer: prodigy needs"),
    Case("targets", {"lora": {"lora_targets": ["to_kk"]}}, "lora_targets: `to_kk`"),
    Case(
        "targets",
        {
            "lora": {
                "lora_type": "lycoris",
                "lycoris_config": {**DORA, "apply_preset": {"target_module": ["Attentions"]}},
            }
        },
        "lycoris_config.apply_preset.target_module",
    ),
    *(
        Case("LoRA to go on from", {"lora": {"init_from": name}}, words, prepare)
        for name, words, prepare in (
            ("./nowhere.safetensors", "is not a file on this machine", nothing),
            ("me/cats:../../secret.safetensors", "is not a file on this machine", nothing),
            ("models:/cats", "is not an address of MLflow; write models:/NAME/VERSION", nothing),
            ("models:/../secret/1", "is not an address of MLflow", nothing),
            (
                "ROOT/new.safetensors",
                "is a LoRA of LTX-2.3 (base_version in its header), and the model is an LTX-2.0; give",
                lora_of_another_version,
            ),
            ("ROOT/more.safetensors", "write lora.lora_targets: [ff.net.2]", lora_of_more_layers),
            ("ROOT/wide.safetensors", "is for another model: its transformer_blocks.0.attn1.to_q", wide_lora),
            ("ROOT/lokr.safetensors", "is a lokr", whole_lycoris),
            ("ROOT/flux.safetensors", "single_blocks.0.linear1", foreign_adapter),
        )
    ),
    Case(
        "checkpoint",
        {"training": {"resume_from_checkpoint": "checkpoint-9"}},
        "training.resume_from_checkpoint: is checkpoint-9",
    ),
    Case(
        "checkpoint",
        {"training": {"resume_from_checkpoint": "ROOT/clips"}},
        "and there is no such checkpoint. Write",
    ),
    Case(
        "TREAD",
        {"tread": {"routes": [{"selection_ratio": 0.5, "start_layer_idx": 1, "end_layer_idx": 90}]}},
        "tread.routes",
    ),
    Case(
        "CREPA",
        {"crepa": {"crepa_enabled": True, "crepa_encoder": "tiny", "crepa_encoder_image_size": 28}},
        "crepa.crepa_block_index: is 8",
    ),
    Case(
        "teacher",
        {"crepa": {"crepa_enabled": True, "crepa_block_index": 0, "crepa_encoder_path": "./nowhere"}},
        "crepa_encoder_path: ./nowhere",
    ),
    Case(
        "size of renderings",
        {"validation": {"validation_resolution": "16x16"}},
        "validation_resolution 16x16",
    ),
    Case("STG", {"validation": {"validation_stg_blocks": [90]}}, "validation_stg_blocks names block 90"),
    Case(
        "names of renderings",
        {
            "validation": {
                "validation_prompts": {"sea": "A sea.", "sea-canny": "Another."},
                "validation_adapter_config": [{"label": "canny", "path": "some/one:canny.safetensors"}],
            }
        },
        "two renderings would be called 'sea-canny'",
    ),
    Case(
        "adapters",
        {"validation": {"validation_adapter_path": "nowhere"}},
        "the adapter nowhere is not a file",
    ),
    Case(
        "adapters",
        {"validation": {"validation_adapter_path": "ROOT/flux.safetensors"}},
        "is for another model: it changes single_blocks.0.linear1",
        foreign_adapter,
    ),
    Case(
        "adapters",
        {"validation": {"validation_adapter_path": "ROOT/model.safetensors"}},
        "is not a LoRA, LoKr or LoHa",
        whole_model,
    ),
    Case(
        "adapters",
        {"validation": {"validation_adapter_config": [{"label": "w", "path": "ROOT/wide.safetensors"}]}},
        "is for another model: its lora_A of transformer_blocks.0.attn1.to_q is [4, 4096]",
        wide_adapter,
    ),
    Case(
        "adapters",
        {"validation": {"validation_adapter_path": "ROOT/newer.safetensors"}},
        "is a LoRA of LTX-2.3 (model_version in its header), and the model is an LTX-2.0",
        adapter_of_2_3,
    ),
    Case(
        "adapters",
        {"validation": {"validation_adapter_path": "ROOT/datasets.yaml"}},
        "is not a safetensors file",
    ),
    Case("decoder", {"validation": {"decoder": "diffusion"}}, "write decoder: conv"),
    Case(
        "pictures of prompts",
        {"validation": {"validation_keyframes": {"red-disc": {"0": "ROOT/missing.png"}}}},
        "validation.validation_keyframes names",
    ),
    Case("second stage", {"validation": {"upscale": 2}}, "latent_upsampler"),
    Case(
        "champion",
        {"evaluation": {"eval_share": 0.5}, "promotion": {"model": "sea"}},
        "champions/sea is no link to a champion; move it away",
        lambda bench: (bench.root / "workspace/champions/sea").mkdir(parents=True),
    ),
    Case(
        "token",
        {"hub": {"push_to_hub": True, "hub_model_id": "lora"}},
        "there is no token of the hub",
        here=Here(device="cpu", devices=None, hub_token=lambda: None),
    ),
)


def recipe_of(bench: Bench, changes: Mapping[str, Any]) -> Recipe:
    placed = json.loads(json.dumps(changes).replace("ROOT", str(bench.root)))
    base = bench.recipe.model_dump(mode="json", exclude_unset=True)
    whole = {**base, **{section: {**base.get(section, {}), **keys} for section, keys in placed.items()}}
    if "torch_compile" in placed.get("training", {}):
        whole["training"].pop("dynamo_mode", None)
    found: Recipe = parse(Recipe, whole, "the recipe")
    return found


@pytest.fixture
def _without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of extras are not installed, whatever this machine has."""
    missing = {"torchao", "bitsandbytes", "prodigyopt"}
    for module in (precisions, extras):
        real = module.importlib.util.find_spec
        monkeypatch.setattr(
            module.importlib.util,
            "find_spec",
            lambda name, _real=real: None if name in missing else _real(name),
        )
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)


@pytest.mark.usefixtures("_without_extras")
def test_every_check_says_no_names_its_key_and_is_asked_for_its_stages_alone(
    tmp_path: Path, bench: Bench
) -> None:
    """One walk over all cases, on one bench: each check of the list is in it."""
    assert check_job(bench.ctx, CPU) is None, "the bench's own recipe can be run"
    (tmp_path / "text.txt").touch()
    plain = (bench.root / "datasets.yaml").read_text()
    for case in CASES:
        (bench.root / "datasets.yaml").write_text(plain)
        case.prepare(bench)
        made = Bench(bench.root, recipe_of(bench, case.recipe))
        found = refusals(made.ctx, case.here)
        assert [refusal.check.name for refusal in found] == [case.check], (case, found)
        assert case.words in found[0].message, found[0].message
        of = found[0].check
        for stage in (PROBE, TEXT, TRAIN, RENDER, JUDGE):
            expected = stage in of.stages
            assert bool(refusals(made.ctx, case.here, (stage,))) is expected, (case, stage)
        if (bench.root / "model").exists():
            (bench.root / "model").rename(bench.root / f"model-{case.check}")
    assert {case.check for case in CASES} == {check.name for check in CHECKS}


def test_every_key_of_the_list_is_one_of_the_recipe() -> None:
    for listed in CHECKS:
        for key in listed.keys:
            section, name = key.split(".")
            annotation: Any = Recipe.model_fields[section].annotation
            # A section that may be left out is a union with None.
            models = [part for part in get_args(annotation) or (annotation,) if part is not type(None)]
            assert any(name in model.model_fields for model in models), key


def command(bench: Bench, name: str, changes: Mapping[str, Any]) -> Any:
    import yaml

    file = bench.root / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_of(bench, changes).model_dump(mode="json", exclude_unset=True)))
    places = ["--workspace", str(bench.root / "workspace"), "--datasets", str(bench.root / "datasets.yaml")]
    return CliRunner().invoke(app, [name, *places, "--recipe", str(file)])


MACHINES = [
    ({"memory": {"ramtorch": True}}, "ramtorch"),
    ({"training": {"optimizer": "prodigy"}}, "prodigy"),
    ({"hub": {"push_to_hub": True, "hub_model_id": "lora"}}, "no token"),
]
RECIPES = [
    ({"lora": {"lora_targets": ["to_kk"]}}, "to_kk"),
    ({"training": {"torch_compile": True}, "memory": {"strategy": "block_streaming"}}, "torch_compile"),
]


@pytest.mark.usefixtures("_without_extras")
@pytest.mark.parametrize(
    ("changes", "words", "status"), [(*m, 1) for m in MACHINES] + [(*r, 2) for r in RECIPES]
)
def test_validate_and_run_refuse_before_a_server_starts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, changes: Any, words: str, status: int
) -> None:
    monkeypatch.setattr(device, "likely_device", lambda: "cpu")
    monkeypatch.setattr(machine, "likely_device", lambda: "cpu")
    monkeypatch.setattr("ltxcore.publishing.token.local_token", lambda: None)
    monkeypatch.setattr("flows.hub_token.local_token", lambda: None)
    monkeypatch.setattr("flows.local_run.LocalServer", lambda *args: pytest.fail("a server was started"))
    result = command(bench, "validate", changes)
    assert (result.exit_code, words in result.output, "are valid" in result.output) == (
        status,
        True,
        False,
    ), result.output
    run = command(bench, "run", changes)
    assert (run.exit_code, words in run.stderr) == (2, True), run.output
    assert not (bench.root / "workspace/stages").exists(), "no stage has begun"


def test_the_parent_and_each_stage_ask_the_same_list(bench: Bench) -> None:
    bench.look()
    wrong = Bench(bench.root, recipe_of(bench, {"lora": {"lora_targets": ["to_kk"]}}))
    with pytest.raises(JobRefused, match=r"train-lora: lora_targets: `to_kk`"):
        check.fn(wrong.ctx)
    with pytest.raises(JobRefused, match="to_kk"):
        check_stage(wrong.ctx, TRAIN)
    check_stage(wrong.ctx, TEXT)
    (bench.root / "datasets.yaml").unlink()
    check_stage(wrong.ctx, TEXT), "a stage alone has no dataset file"
    with pytest.raises(JobRefused, match="to_kk"):
        check_stage(wrong.ctx, TRAIN)


def test_a_stage_alone_is_refused_before_a_server_starts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.look()
    monkeypatch.setattr("flows.local_run.LocalServer", lambda *args: pytest.fail("a server was started"))
    (bench.root / "recipe.yaml").write_text("lora: {lora_targets: [to_kk]}")
    (bench.root / "datasets.yaml").unlink()
    places = ["--workspace", str(bench.root / "workspace"), "--recipe", str(bench.root / "recipe.yaml")]
    result = CliRunner().invoke(app, ["stage", "train-lora", *places])
    assert (result.exit_code, "train-lora: lora_targets" in result.stderr) == (2, True), result.output


def test_all_that_is_wrong_is_reported_at_once(bench: Bench) -> None:
    wrong = {"lora": {"lora_targets": ["to_kk"]}, "validation": {"validation_resolution": "16x16"}}
    with pytest.raises(JobRefused) as refusal:
        check_job(Bench(bench.root, recipe_of(bench, wrong)).ctx, CPU)
    assert [r.check.name for r in refusal.value.refusals] == ["targets", "size of renderings"]
    off = {**wrong, "validation": {"validation_resolution": "16x16", "validation_disable": True}}
    with pytest.raises(JobRefused) as refusal:
        check_job(Bench(bench.root, recipe_of(bench, off)).ctx, CPU)
    assert [r.check.name for r in refusal.value.refusals] == ["targets"], "nothing is rendered"


def test_buckets_that_fill_no_batch_are_reported_once_the_clips_are_known(bench: Bench) -> None:
    bench.look()
    check_clips(bench.ctx)
    with pytest.raises(BucketTooSmall, match="train_batch_size is 50"):
        check_clips(
            Bench(
                bench.root,
                recipe_of(bench, {"training": {"train_batch_size": 50, "allow_small_buckets": False}}),
            ).ctx
        )
    named = {"training": {"train_batch_size": {"96x96@9": 2}}}
    with pytest.raises(UndecidedBatchSize, match="but the data have a bucket"):
        check_clips(Bench(bench.root, recipe_of(bench, named)).ctx)


def test_a_stage_without_a_plan_in_host_memory_is_reported_once_the_clips_are_known(bench: Bench) -> None:
    """The last stages need most: they refuse before the first ones have worked."""
    bench.look()
    code = (
        "import sys; from pathlib import Path; from ltxcore.config.recipe import load_recipe\n"
        "from ltxcore.pipeline.base.context import context_here\n"
        "from ltxcore.jobs.checks.job_checks import check_clips\n"
        "from ltxcore.store.workspace import Workspace\n"
        "root = Path(sys.argv[1]); recipe = load_recipe(root / 'recipe.yaml')\n"
        "check_clips(context_here(Workspace(root / 'workspace'), recipe, root / 'datasets.yaml'))\n"
        "sys.exit('torch' in sys.modules)"
    )
    (bench.root / "recipe.yaml").write_text(
        json.dumps(bench.recipe.model_dump(mode="json", exclude_unset=True))
    )
    asked = subprocess.run([sys.executable, "-c", code, str(bench.root)], check=False, capture_output=True)
    assert asked.returncode == 0, asked.stderr.decode()
    small = Bench(bench.root, recipe_of(bench, {"memory": {"ram_gib": 0.5}}))
    with pytest.raises(OverBudget, match=r"encode-latents needs|memory\.ram_gib"):
        check_clips(small.ctx)


def test_what_is_compiled_stays_in_place_where_the_recipe_does_not_say(bench: Bench) -> None:
    compiled = recipe_of(bench, {"training": {"torch_compile": True}})
    assert training_memory(compiled).forced == "resident"
    assert training_memory(bench.recipe).forced == "auto"
    with pytest.raises(StrategyUnavailable):
        compile_blocks(None, compiled.training, Arrangement("block_streaming"), 1)


def test_an_adapter_of_this_model_passes_in_both_names(bench: Bench) -> None:
    width = bench.ctx.source.shapes("transformer")["transformer_blocks.0.attn1.to_q.weight"]
    for prefix in ("transformer", "diffusion_model"):
        name = f"{prefix}.transformer_blocks.0.attn1.to_q"
        tensors = {f"{name}.lora_A.weight": (4, width[1]), f"{name}.lora_B.weight": (width[0], 4)}
        adapter(bench.root / "fits.safetensors", tensors)
        path = {"validation": {"validation_adapter_path": "ROOT/fits.safetensors"}}
        check_job(Bench(bench.root, recipe_of(bench, path)).ctx, CPU)


def test_names_that_checks_know_without_torch_are_those_of_the_model(bench: Bench) -> None:
    transformer = load_transformer(bench.ctx.source, torch.float32, "cpu")
    blocks = transformer.transformer_blocks
    assert {type(module).__name__ for module in blocks.modules()} <= set(BLOCK_CLASSES)
    assert checks.STATE == checkpoints.STATE


def test_the_checks_need_no_torch() -> None:
    code = "import sys, ltxcore.jobs.checks.job_checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_token_may_be_in_a_block_of_a_server_that_sleeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the run itself has to look; where there is no such block, nobody need start a server to say so."""
    import sqlite3

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.hub_token.local_token", lambda: None)
    database = tmp_path / "odd ?%41 place/prefect/prefect.db"
    workspace = database.parent.parent
    asked = may_be_token(workspace)
    assert asked is not None, "no server has ever been here"
    assert asked() is None
    database.parent.mkdir(parents=True)
    with sqlite3.connect(database) as made:
        made.execute("CREATE TABLE block_document (name TEXT)")
    assert may_be_token(workspace) is not None
    with sqlite3.connect(database) as made:
        made.execute("INSERT INTO block_document VALUES ('hf-token')")
    assert may_be_token(workspace) is None
