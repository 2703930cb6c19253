"""The rules for the keys of config.json, one for each, and their application."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from ltxcore.config.base import KeyPath
from ltxcore.config.model_settings import WeightPrecision
from ltxcore.config.published import PUBLISHED, VERSION_OF
from ltxcore.config.simpletuner.conditioning import CONDITIONING, KEYS, settle_conditioning
from ltxcore.config.simpletuner.flow import FLOW, settle_flow
from ltxcore.config.simpletuner.options import options
from ltxcore.config.simpletuner.second_stage import FILE, SECOND_STAGE, settle_second_stage
from ltxcore.config.simpletuner.translation import (
    EMPTY_VALUES,
    Rule,
    Translation,
    apply,
    moot,
    normal,
    not_yet,
    plain_key,
    refuse,
    rule_of,
    take,
    unknown,
)
from ltxcore.config.simpletuner.values import (
    adapter_file,
    adapter_runs,
    by_layers,
    guidance,
    legal_frames,
    lycoris_config,
    modules,
    named_file,
    one_prompt,
    prompt_library,
    renamed,
    resolution,
    routes,
)

SEED_MODEL: Final = "Lightricks/LTX-2"
ONE_PROCESS: Final = "always so: every stage is a process of its own"
SDPA: Final = "attention is PyTorch's scaled_dot_product_attention, with the fastest kernel of the device"
PRIVATE: Final = "to a private repository; `hub_private: false` makes it public"
IN_BF16: Final = "the weights are loaded as mixed_precision says, which takes more memory"
SDNQ: Final = {
    "int8-sdnq": "int8-quanto", "uint8-sdnq": "int8-quanto", "fp8-sdnq": "fp8-quanto",
    "uint4-sdnq": "int4-quanto", "uint2-sdnq": "int2-quanto",
}  # fmt: skip
"""Precisions of a library that is not used here, and those of as many bits."""
OTHER_NAMES: Final = {"bnb-adamw8bit": "adamw8bit", "torch-adamw": "adamw", "adam_bfloat16": "adamw_bf16"}
PRECISIONS: Final = get_args(WeightPrecision)
PRECISIONS_TO_COME: Final = ("fp8uz-quanto", "fp4-bnb")
OPTIMIZERS: Final = ("adamw", "adamw_bf16", "adamw8bit", "prodigy")
CREPA: Final = (
    "block_index", "lambda", "adjacent_distance", "adjacent_tau", "encoder", "encoder_image_size",
)  # fmt: skip
SCHEDULED_SAMPLING: Final = tuple(
    f"scheduled_sampling_{name}"
    for name in (
        "max_step_offset", "strategy", "prob_start", "prob_end", "ramp_steps", "start_step", "ramp_shape",
        "reflexflow", "reflexflow_alpha", "reflexflow_beta1", "reflexflow_beta2",
    )
)  # fmt: skip


def _precision(to: str) -> Rule:
    return refuse(
        f"is not a known precision; known: {', '.join(PRECISIONS)}",
        {
            **{name: take(to) for name in PRECISIONS},
            **{name: take(to, convert=renamed(ours)) for name, ours in SDNQ.items()},
            **{name: not_yet(IN_BF16) for name in PRECISIONS_TO_COME},
        },
    )


TRAINING: Final[Mapping[str, Rule]] = {
    # the model
    "model_family": take("model.model_family"),
    "model_flavour": refuse(
        f"is not a known flavour; known: {', '.join(VERSION_OF)}",
        {
            **{name: take("model.model_flavour") for name in VERSION_OF},
            **{
                name: take("model.model_flavour", convert=renamed(next(iter(row.flavours))))
                for row in PUBLISHED.values()
                for name in row.other_names
            },
        },
    ),
    "pretrained_gemma_model_name_or_path": take("model.text_encoder"),
    "pretrained_model_name_or_path": take("model.pretrained_model_name_or_path"),
    "revision": take("model.revision"),
    "model_type": Rule(
        "refused",
        "only a LoRA is trained here; write `lora`",
        cases={"lora": moot("a LoRA is always trained")},
        even_default=True,
    ),
    # the training
    "seed": take("training.seed"),
    "train_batch_size": take("training.train_batch_size"),
    "gradient_accumulation_steps": take("training.gradient_accumulation_steps"),
    "num_train_epochs": take("training.num_train_epochs", off=(0, -1)),
    "max_train_steps": take("training.max_train_steps", off=(0, -1)),
    "learning_rate": take("training.learning_rate"),
    "lr_scheduler": take("training.lr_scheduler"),
    "lr_warmup_steps": take("training.lr_warmup_steps"),
    "lr_num_cycles": take("training.lr_num_cycles"),
    "lr_power": take("training.lr_power"),
    "lr_end": take("training.lr_end"),
    "max_grad_norm": take("training.max_grad_norm", why="the norm of all gradients together, as it says"),
    "grad_clip_method": take("training.grad_clip_method"),
    "optimizer": refuse(
        f"is not a known optimizer; known: {', '.join(OPTIMIZERS)}",
        {
            **{name: take("training.optimizer") for name in OPTIMIZERS},
            **{name: take("training.optimizer", convert=renamed(to)) for name, to in OTHER_NAMES.items()},
        },
    ),
    "optimizer_beta1": take("training.adam_beta1"),
    "optimizer_beta2": take("training.adam_beta2"),
    "disable_bucket_pruning": take("training.allow_small_buckets", off=(False,)),
    "allow_dataset_oversubscription": take("training.allow_small_buckets", off=(False,)),
    "use_ema": take("training.use_ema"),
    "ema_decay": take("training.ema_decay"),
    "ema_update_interval": take("training.ema_update_interval"),
    "ema_validation": take("training.ema_validation", needs="use_ema"),
    "adam_beta1": take("training.adam_beta1"),
    "adam_beta2": take("training.adam_beta2"),
    "adam_epsilon": take("training.adam_epsilon"),
    "adam_weight_decay": take("training.adam_weight_decay"),
    "mixed_precision": take("training.mixed_precision"),
    "gradient_checkpointing": take("training.gradient_checkpointing"),
    "base_model_precision": _precision("model.base_model_precision"),
    "text_encoder_1_precision": _precision("model.text_encoder_1_precision"),
    "checkpoint_step_interval": take("training.checkpoint_step_interval"),
    "checkpointing_steps": take("training.checkpoint_step_interval"),
    "checkpoints_total_limit": take("training.checkpoints_total_limit"),
    "resume_from_checkpoint": take("training.resume_from_checkpoint"),
    "masked_loss_probability": take("training.loss_mask_probability"),
    "caption_dropout_probability": take("training.caption_dropout_probability"),
    **CONDITIONING,
    # the adapter
    "lora_rank": take("lora.lora_rank"),
    "lora_alpha": take("lora.lora_alpha"),
    "lora_dropout": take("lora.lora_dropout"),
    "lora_type": refuse(
        "is not a known type; known: standard, lycoris",
        {name: take("lora.lora_type") for name in ("standard", "lycoris")},
    ),
    "init_lora": take("lora.init_from", convert=adapter_file),
    "use_dora": take("lora.use_dora"),
    "use_rslora": take("lora.use_rslora"),
    "lora_format": moot("both formats are always written"),
    "peft_lora_target_modules": take("lora.lora_targets", convert=modules),
    "lycoris_config": Rule(
        "taken", to=("lora.lycoris_config",), convert=lycoris_config, needs="lora_type=lycoris"
    ),
    # noise levels
    **FLOW,
    # data
    "resolution": take("data.resolution", why="for datasets that give none"),
    "resolution_type": take("data.resolution_type", why="for datasets that give none"),
    "frame_rate": take("data.frame_rate", "validation.validation_frame_rate"),
    "framerate": take("data.frame_rate", "validation.validation_frame_rate"),
    "minimum_image_size": take("data.minimum_image_size", why="for datasets that give none"),
    "aspect_bucket_alignment": refuse(
        "write it as aspect_bucket_alignment in each dataset", {32: moot("is the default here")}
    ),
    "data_backend_config": moot("the dataset file is given as --datasets"),
    "override_dataset_config": moot("keys are made of content, so no old configuration is in the way"),
    "skip_file_discovery": moot("files are found by a stat each; nothing is read twice"),
    # processes
    "num_processes": take("processes.count"),
    "accelerate_config": take("processes.accelerate_config", convert=named_file),
    # memory
    "attention_mechanism": not_yet(SDPA, cases={"diffusers": moot(SDPA)}),
    "offload_during_startup": moot(ONE_PROCESS),
    "enable_group_offload": take("memory.enable_group_offload"),
    **{
        f"group_offload_{name}": take(f"memory.group_offload_{name}", needs="enable_group_offload")
        for name in ("type", "blocks_per_group", "use_stream", "to_disk_path")
    },
    "musubi_blocks_to_swap": take("memory.musubi_blocks_to_swap"),
    "musubi_block_swap_device": take("memory.musubi_block_swap_device", needs="musubi_blocks_to_swap"),
    "ramtorch": take("memory.ramtorch"),
    "ramtorch_text_encoder": take("model.text_encoder_loading", convert=by_layers, off=(False,)),
    "ramtorch_vae": take("memory.ramtorch_vae", off=(False,)),
    **{
        f"vae_{name}": take(f"encode.vae_{name}")
        for name in (
            "enable_tiling",
            "enable_slicing",
            "enable_patch_conv",
            "enable_temporal_roll",
            "batch_size",
        )
    },
    "vae_dtype": Rule(
        "taken",
        to=("encode.vae_dtype",),
        cases={
            "default": moot("bf16 is the default"),
            "fp16": refuse("fp16 overflows in this VAE; write bf16 or fp32"),
        },
    ),
    "dynamo_mode": take("training.dynamo_mode", why="torch_compile is on", off=("no",)),
    "dynamo_backend": take("training.dynamo_backend", why="torch_compile is on", off=("no",)),
    # techniques
    "tread_config": take("tread.routes", convert=routes),
    "crepa_enabled": take("crepa.crepa_enabled"),
    **{f"crepa_{name}": Rule("taken", to=(f"crepa.crepa_{name}",), needs="crepa_enabled") for name in CREPA},
    "crepa_drop_vae_encoder": moot("training never loads a VAE: the teacher sees the clips' own frames"),
    **{name: take(f"scheduled_sampling.{name}") for name in SCHEDULED_SAMPLING},
    "scheduled_sampling_probability": Rule(
        "taken",
        to=(
            "scheduled_sampling.scheduled_sampling_prob_start",
            "scheduled_sampling.scheduled_sampling_prob_end",
        ),
        needs="scheduled_sampling_max_step_offset",
    ),
    "scheduled_sampling_sampler": Rule(
        "refused",
        "is not known here; rollouts take steps of Euler: write euler, or leave it out",
        needs="scheduled_sampling_max_step_offset",
        cases={
            "euler": moot("rollouts take steps of Euler"),
            **{
                name: not_yet("rollouts take steps of Euler, of 1/1000")
                for name in ("unipc", "dpm", "rk4", "heun")
            },
        },
    ),
    "scheduled_sampling_order": moot("rollouts take steps of Euler, which have no order to choose"),
    # validation
    "validation_disable": take("validation.validation_disable"),
    "validation_step_interval": take("validation.validation_step_interval"),
    "validation_steps": take("validation.validation_step_interval"),
    "validation_prompt": take("validation.validation_prompts", convert=one_prompt),
    "validation_prompt_library": take("validation.validation_prompts", convert=prompt_library, off=(False,)),
    "user_prompt_library": take("validation.validation_prompts", convert=prompt_library),
    "validation_negative_prompt": take("validation.validation_negative_prompt"),
    "validation_guidance": take("validation.validation_guidance", convert=guidance),
    "validation_num_inference_steps": take("validation.validation_num_inference_steps"),
    "validation_num_video_frames": take("validation.validation_num_video_frames", convert=legal_frames),
    "validation_resolution": take("validation.validation_resolution", convert=resolution),
    "validation_seed": take("validation.validation_seed"),
    "validation_disable_unconditional": take("validation.validation_disable_unconditional"),
    **SECOND_STAGE,
    "ltx2_validation_audio_guidance": take("validation.validation_audio_guidance"),
    "validation_audio_guidance": take("validation.validation_audio_guidance"),
    "validation_guidance_rescale": take("validation.validation_guidance_rescale"),
    "validation_using_datasets": take("validation.validation_using_datasets"),
    "eval_dataset_id": Rule("taken", to=("validation.eval_dataset_id",), needs="validation_using_datasets"),
    "validation_adapter_path": take("validation.validation_adapter_path", convert=adapter_file),
    "validation_adapter_config": take("validation.validation_adapter_config", convert=adapter_runs),
    "evaluation_type": not_yet("renderings are measured, but not scored by a model", off=("none",)),
    "disable_benchmark": moot("the base is always rendered beside the LoRA"),
    # records
    "report_to": not_yet(
        "MLflow in the workspace records every step, setting and picture instead, and nothing is sent; "
        "`make serve` shows it",
        off=("none", "mlflow"),
    ),
    "tracker_project_name": take("tracking.tracker_project_name"),
    "tracker_run_name": take("tracking.tracker_run_name"),
    "push_to_hub": take("hub.push_to_hub", why=PRIVATE, off=(False,)),
    "model_card_private": take("hub.hub_private", needs="push_to_hub"),
    "hub_model_id": take("hub.hub_model_id", needs="push_to_hub"),
    "output_dir": moot("everything is written to the workspace (--workspace)"),
}


KNOWN: Final[Mapping[str, Rule]] = {
    **{name: rule_of(option) for name, option in options().items() if option.verdict != "mapped"},
    **TRAINING,
}
"""A rule for every key of that program."""


def is_flat(data: Any, sections: Mapping[str, Any]) -> bool:
    """Whether a recipe file is a config.json of SimpleTuner: flat, and with keys of its own."""
    if not isinstance(data, dict) or data.keys() & sections.keys():
        return False
    return any(plain_key(str(key)) in KNOWN for key in data)


def translate_config(
    data: Mapping[str, Any], source: Path, lines: Mapping[KeyPath, int] | None = None
) -> Translation:
    """A config.json as the plain data of a recipe, with a line for every key."""
    translation = Translation(str(source), {})
    config = {plain_key(str(key)): normal(value, plain_key(str(key))) for key, value in data.items()}
    given = {plain_key(str(key)): (lines or {}).get((str(key),)) for key in data}
    for key, value in config.items():
        if key not in KNOWN:
            translation.tell(key, "refused", unknown(key, KNOWN), given[key])
            continue
        if key in (*KEYS, FILE) and value not in EMPTY_VALUES:
            continue
        sets = apply(translation, KNOWN[key], key, value, config, source.parent, given[key])
        for path, found in sets.items():
            _put(translation, key, path, found, given[key])
    _settle_steps(translation, config, given)
    _settle_average(translation)
    settle_flow(translation, config)
    settle_second_stage(translation, config, given)
    settle_conditioning(translation, {k: v for k, v in config.items() if v not in EMPTY_VALUES}, given)
    _refuse_both(translation, config, given, "validation_adapter_path", "validation_adapter_config")
    if not translation.data.get("model", {}).get("pretrained_model_name_or_path"):
        _put(translation, "", "model.pretrained_model_name_or_path", SEED_MODEL, None)
        translation.tell("pretrained_model_name_or_path", "added", f"{SEED_MODEL}, as where it is left out")
    return translation


def _put(translation: Translation, key: str, path: str, value: Any, line: int | None) -> None:
    section, name = path.split(".")
    values = translation.data.setdefault(section, {})
    if isinstance(value, dict):
        value = {**values.get(name, {}), **value}
    elif name in values and values[name] != value:
        message = f"is {value!r}, but another key has set {path} to {values[name]!r}; keep one of them"
        translation.tell(key, "refused", message, line)
        return
    values[name] = value
    if line is not None:
        translation.places[(section, name)] = line


def _settle_steps(
    translation: Translation, config: Mapping[str, Any], given: Mapping[str, int | None]
) -> None:
    """num_train_epochs or max_train_steps gives the length; without both it is one epoch."""
    training = translation.data.setdefault("training", {})
    names = [name for name in ("num_train_epochs", "max_train_steps") if name in training]
    if len(names) == 2:
        message = "both num_train_epochs and max_train_steps are given; set one of them to 0"
        translation.tell("max_train_steps", "refused", message, given["max_train_steps"])
    elif not names and {"num_train_epochs", "max_train_steps"} <= config.keys():
        message = "both num_train_epochs and max_train_steps are 0; give one of them"
        translation.tell("max_train_steps", "refused", message, given["max_train_steps"])
    elif not names:
        training["num_train_epochs"] = 1
        translation.tell("num_train_epochs", "added", "1, as where neither it nor max_train_steps is given")


def _settle_average(translation: Translation) -> None:
    """If an average is kept without ema_validation, both sides are compared, as in SimpleTuner."""
    training = translation.data.get("training", {})
    if training.get("use_ema") and "ema_validation" not in training:
        training["ema_validation"] = "comparison"
        message = "comparison, as where it is left out beside use_ema"
        translation.tell("ema_validation", "added", message)


def _refuse_both(
    translation: Translation,
    config: Mapping[str, Any],
    given: Mapping[str, int | None],
    one: str,
    other: str,
) -> None:
    if config.get(one) and config.get(other):
        translation.tell(other, "refused", f"is given beside `{one}`; keep one of them", given[other])
