"""The whole option list of SimpleTuner: every key has a verdict, and only what cannot be had stops a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.data_defaults import DataDefaults
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.config.simpletuner.options import Option, options
from ltxcore.config.simpletuner.training import KNOWN, TRAINING, translate_config
from ltxcore.config.simpletuner.translation import Line

OF_THE_TABLE = [option for option in options().values() if option.verdict != "mapped"]
OTHER_VALUE = {"number": 7, "flag": True, "text": "something", "json": {"some": "thing"}}


def translated(key: str, value: Any, **more: Any) -> Line:
    found = translate_config({"max_train_steps": 10, **more, key: value}, Path("config.json"))
    return next(line for line in found.lines if line.key == key)


def other(option: Option) -> Any:
    return (not option.default) if option.kind == "flag" else OTHER_VALUE[option.kind]


def test_the_table_holds_the_whole_list_and_every_mapped_option_has_a_rule() -> None:
    assert len(options()) >= 455
    assert {name for name, option in options().items() if option.verdict == "mapped"} <= TRAINING.keys()
    assert options().keys() <= KNOWN.keys()
    assert not [option.name for option in OF_THE_TABLE if not option.note], "each says why, or what instead"


def test_an_option_at_its_default_or_off_asks_for_nothing() -> None:
    odd = []
    for option in OF_THE_TABLE:
        values = [option.default, "", None]
        values += [str(option.default)] if isinstance(option.default, int | float) else []
        values += [False] if option.default is None else []
        on = {option.needs: True} if option.needs else {}
        odd += [
            (option.name, value) for value in values if translated(option.name, value, **on).verdict != "moot"
        ]
    assert not odd


def test_an_option_that_asks_for_something_has_the_verdict_of_its_row() -> None:
    for option in OF_THE_TABLE:
        line = translated(option.name, other(option), **({option.needs: True} if option.needs else {}))
        assert (line.verdict, line.message) == (option.verdict, option.note), option.name
        if option.needs:
            assert translated(option.name, other(option)).verdict == "moot", f"{option.needs} is off"


def test_every_option_at_its_default_is_taken_or_moot() -> None:
    """What that program would do anyway stops nothing, but for what means another training."""
    stops = {
        name for name, option in options().items() if translated(name, option.default).verdict == "refused"
    }
    assert stops <= {"model_type", "max_train_steps"}


BASE: dict[str, Any] = {
    "base_model_precision": "int8-torchao", "caption_dropout_probability": 0.05,
    "checkpoint_step_interval": 250, "checkpoints_total_limit": 3, "compress_disk_cache": True,
    "data_backend_config": "config/sets.json", "disable_benchmark": True, "gradient_checkpointing": True,
    "hub_model_id": "my-lora", "learning_rate": 1e-4, "lora_rank": 32, "lora_type": "standard",
    "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 20, "max_grad_norm": 1.0,
    "max_train_steps": 400, "minimum_image_size": 0, "mixed_precision": "bf16", "model_family": "ltxvideo2",
    "model_type": "lora", "musubi_blocks_to_swap": 40, "num_train_epochs": 0, "optimizer": "adamw_bf16",
    "output_dir": "output/mine", "report_to": "none", "resolution": 512, "resolution_type": "pixel_area",
    "resume_from_checkpoint": "latest", "seed": 7, "tracker_project_name": "project",
    "tracker_run_name": "run", "train_batch_size": 1, "vae_batch_size": 1, "vae_enable_slicing": True,
    "vae_enable_tiling": True, "validation_guidance": 4.5, "validation_negative_prompt": "grain",
    "validation_num_inference_steps": 24, "validation_num_video_frames": 49,
    "validation_prompt": "A lighthouse at dusk.", "validation_prompt_library": False,
    "validation_resolution": "640x384", "validation_seed": 7, "validation_steps": 100,
}  # fmt: skip
OF_2_3: dict[str, Any] = {
    **BASE, "base_model_precision": "no_change", "musubi_blocks_to_swap": 0, "model_flavour": "2.3-dev",
    "attention_mechanism": "flash-attn-varlen-hub", "use_ema": False, "vae_enable_patch_conv": True,
    "vae_enable_temporal_roll": True, "validation_disable_unconditional": True, "disable_benchmark": False,
}  # fmt: skip
INTRINSIC = [
    {"type": "first_frame", "probability": 0.4},
    {"type": "prefix", "probability": 0.2, "temporal_boundary": 3},
    {"type": "suffix", "probability": 0.2, "temporal_boundary": 2},
    {"type": "spatial_crop", "probability": 0.2, "spatial_region": [0, 0, 8, 8]},
]
PARALLEL = {"context_parallel_size": 2, "context_parallel_comm_strategy": "alltoall"}
ONE_DEVICE = {"num_processes": 1, "context_parallel_size": 1}
OF_2_5 = {**ONE_DEVICE, "model_flavour": "2.5-dev", "pretrained_model_name_or_path": "Lightricks/LTX-2.5"}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": BASE,
    "16G": {
        **BASE, "base_model_precision": "int8-quanto", "musubi_blocks_to_swap": 0, "ramtorch": True,
        "ramtorch_disable_extensions": False, "ramtorch_text_encoder": True,
    },
    "first-frame": {
        **BASE, "ltx2_first_frame_conditioning_probability": 0.3,
        "ltx2_prefix_conditioning_probability": 0.2, "ltx2_prefix_conditioning_frames": 3,
    },
    "intrinsic": {**BASE, "ltx2_intrinsic_conditioning": INTRINSIC},
    "reference": {
        **BASE, "ltx2_reference_spatial_scale_factor": 2, "ltx2_reference_temporal_scale_factor": 4,
    },
    "1080p": {**OF_2_3, **PARALLEL, "resolution": 1080, "validation_resolution": "1920x1056"},
    "720p": {**OF_2_3, **PARALLEL, "resolution": 720, "validation_resolution": "1280x704"},
    "ramtorch": {
        **OF_2_3, **ONE_DEVICE, "ramtorch": True, "ramtorch_disable_extensions": True,
        "ramtorch_disable_sync_hooks": False, "ramtorch_target_modules": "transformer_blocks.*",
        "ramtorch_text_encoder": False, "ramtorch_transformer_percent": 100,
    },
    "two-stages": {
        **OF_2_3, **ONE_DEVICE, "validation_resolution": "1280x704,1216x704",
        "ltx2_validation_pipeline_mode": "spatial-upscale",
    },
    "sdnq": {
        **OF_2_3, **ONE_DEVICE, "base_model_precision": "int8-sdnq", "quantize_via": "cpu",
        "sdnq_compile_mode": "compile", "sdnq_group_size": -1, "sdnq_hadamard_group_size": 128,
        "sdnq_use_hadamard": True, "sdnq_use_quantized_matmul": True,
    },
    "2.5-128G": {**OF_2_3, **OF_2_5, "attention_mechanism": "metal-flash-attention", "validation_steps": 0},
    "2.5-48G": {**OF_2_3, **OF_2_5, "attention_mechanism": "metal-flash-attention-int8"},
}  # fmt: skip


def written(directory: Path, name: str) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(CONFIGURATIONS[name], indent=1))
    return path


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_for_ltx_2_as_people_have_it_is_a_recipe(tmp_path: Path, name: str) -> None:
    found = load_recipe(written(tmp_path, name))
    assert (found.training.max_train_steps, found.lora.lora_rank, found.training.seed) == (400, 32, 7)
    assert found.training.checkpoint_step_interval == 250
    assert found.validation.validation_step_interval == CONFIGURATIONS[name]["validation_steps"]
    assert found.memory.forced == {"16G": "ramtorch", "ramtorch": "ramtorch"}.get(
        name, "block_streaming" if CONFIGURATIONS[name]["musubi_blocks_to_swap"] else "auto"
    )


def test_renderings_in_two_stages_begin_at_half_the_size(tmp_path: Path) -> None:
    found = load_recipe(written(tmp_path, "two-stages"))
    # 608 and 352 are multiples of 32, 1280 / 2 too.
    assert found.validation.validation_resolution == "640x352,608x352"
    assert found.validation.upscale == 2
    upsampler = "Lightricks/LTX-2.3:ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
    assert found.model.latent_upsampler == upsampler
    base = {"learning_rate": 1e-4, "ltx2_validation_pipeline_mode": "spatial-upscale"}
    for model, wanted in (("/models/x2.safetensors", "/models/x2.safetensors"), ("/models", "/models/a.st")):
        keys = {
            "ltx2_validation_spatial_upsampler_model": model,
            "ltx2_validation_spatial_upsampler_filename": "a.st",
        }
        translation = translate_config({**base, **keys, "validation_resolution": "736x480"}, Path("c.json"))
        assert translation.data["model"]["latent_upsampler"] == wanted
        renamed = [line for line in translation.lines if line.key.endswith("upsampler_filename")]
        assert [line.verdict for line in renamed] == ["renamed"]
        # 368x240 is no legal size.
        assert translation.data["validation"]["validation_resolution"] == "352x224"
        told = {line.message: line.verdict for line in translation.lines if "resolution" in line.key}
        assert told["352x224, of the first stage; the second doubles it"] == "rounded"
    one = translate_config({**base, "ltx2_validation_pipeline_mode": "trained-stage"}, Path("c.json"))
    assert "upscale" not in one.data.get("validation", {})
    assert "latent_upsampler" not in one.data["model"]
    wrong = translate_config({**base, "ltx2_validation_pipeline_mode": "three"}, Path("c.json"))
    assert any("write spatial-upscale or trained-stage" in line.message for line in wrong.lines)


def conditions(recipe: Recipe) -> list[dict[str, Any]]:
    return [condition.model_dump(mode="json") for condition in recipe.given.video.conditions]


def test_the_keys_of_what_is_given_become_conditions_in_frames_of_the_clip(tmp_path: Path) -> None:
    first, prefix = conditions(load_recipe(written(tmp_path, "first-frame")))
    assert first == {"type": "first_frame", "probability": 0.3}
    assert prefix == {"type": "prefix", "probability": 0.2, "frames": [17, 17]}, "1 + 2 times 8"
    listed = conditions(load_recipe(written(tmp_path, "intrinsic")))
    assert [c["type"] for c in listed] == ["first_frame", "prefix", "suffix", "spatial_crop"]
    assert (listed[1]["frames"], listed[2]["frames"]) == ([17, 17], [16, 16])
    assert listed[3]["area"] == [0.25, 0.25], "8x8 of the 16x16 latent pixels of 512"


def test_the_factors_of_references_reach_the_dataset_that_gives_none(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "reference"))
    assert [c["type"] for c in conditions(recipe)] == ["reference"]
    references = {"dataset_type": "conditioning", "conditioning_type": "reference"}
    filled = recipe.data.fill(references)
    assert (filled["reference_downscale_factor"], filled["reference_temporal_scale_factor"]) == (2, 4)
    assert (
        recipe.data.fill({**references, "reference_downscale_factor": 1})["reference_downscale_factor"] == 1
    )
    masks = {"dataset_type": "conditioning", "conditioning_type": "mask"}
    assert recipe.data.fill(masks) == masks
    assert DataDefaults().fill(references) == references


@pytest.mark.parametrize(
    ("config", "key", "words"),
    [
        (
            {"ltx2_intrinsic_conditioning": [{"type": "middle"}]},
            "ltx2_intrinsic_conditioning",
            "known: first_f",
        ),
        ({"ltx2_intrinsic_conditioning": "[{"}, "ltx2_intrinsic_conditioning", "write a JSON list"),
        ({"ltx2_mask_conditioning_probability": 3}, "ltx2_mask_conditioning_probability", "from 0 to 1"),
        (
            {
                "ltx2_intrinsic_conditioning": [{"type": "suffix"}],
                "ltx2_suffix_conditioning_probability": 1,
            },
            "ltx2_intrinsic_conditioning",
            "gives suffix that another key gives, too",
        ),
        ({"loss_type": "huber"}, "loss_type", "write l2"),
        ({"fsdp_enable": True}, "fsdp_enable", "write accelerate_config"),
        ({"accelerate_config": "none.yaml"}, "accelerate_config", "there is no file none.yaml"),
    ],
)
def test_what_cannot_be_had_stops_and_says_what_to_write(config: Any, key: str, words: str) -> None:
    found = translate_config({"max_train_steps": 10, **config}, Path("config.json"))
    with pytest.raises(ConfigError) as refusal:
        found.check()
    assert {problem.key for problem in refusal.value.problems} == {key}
    assert words in str(refusal.value)


def test_what_is_done_instead_is_said() -> None:
    assert "scaled_dot_product_attention" in translated("attention_mechanism", "xformers").message
    for tracker in ("wandb", "wandb,tensorboard"):
        line = translated("report_to", tracker)
        assert line.verdict == "not yet"
        assert "MLflow in the workspace" in line.message
    assert translated("base_model_precision", "int8-sdnq").message.startswith("int8-sdnq -> int8-quanto")


def test_ramtorch_is_taken_where_group_offload_is_asked_for_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = {"ramtorch": True, "enable_group_offload": True, "group_offload_use_stream": True}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"max_train_steps": 5, **both}))
    recipe = load_recipe(config)
    assert recipe.memory.forced == "ramtorch"
    assert "both on: ramtorch is taken" in caplog.text
    assert not Recipe().remarks
    with pytest.raises(ValueError, match="keep one of them"):
        Recipe.model_validate({"memory": {**both, "musubi_blocks_to_swap": 4}})
