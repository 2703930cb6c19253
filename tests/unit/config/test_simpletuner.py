"""SimpleTuner's files: every key of the seed has a rule, and the seed's own blocks come through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.base import parse
from ltxcore.config.datasets import KINDS
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.config.simpletuner.datasets import DATASETS, translate_datasets
from ltxcore.config.simpletuner.training import TRAINING, translate_config
from ltxcore.config.simpletuner.translation import Translation, Verdict

SEED = Path(__file__).parent / "seed"
CONFIGS = sorted(SEED.glob("*.config.json"))
BACKENDS = sorted(SEED.glob("*.multidatabackend.json"))


def translate(**config: Any) -> Translation:
    return translate_config({"max_train_steps": 10, **config}, Path("config.json"))


def verdict(key: str, value: Any, **more: Any) -> Verdict:
    return next(line.verdict for line in translate(**{key: value}, **more).lines if line.key == key)


def recipe(**config: Any) -> Recipe:
    found = translate(**config)
    found.check()
    read: Recipe = parse(Recipe, found.data, "config.json", found.places)
    return read


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_block_of_the_seed_is_a_recipe_and_each_key_has_a_line(path: Path) -> None:
    assert isinstance(load_recipe(path), Recipe)
    data = json.loads(path.read_text())
    messages = [line.key for line in translate_config(data, path).lines if line.verdict != "added"]
    assert sorted(messages) == sorted(data)


@pytest.mark.parametrize("path", BACKENDS, ids=lambda p: p.name)
def test_every_dataset_block_of_the_seed_is_translated_key_by_key(path: Path) -> None:
    found = translate_datasets(json.loads(path.read_text()), path)
    found.check()
    translated = {line.key for line in found.lines}
    for entry in json.loads(path.read_text()):
        if entry["dataset_type"] in KINDS:
            inner = {f"{b}.{k}" for b in ("video", "audio") for k in entry.get(b, {})}
            keys = {key for key in entry if key not in ("video", "audio")} | inner
            assert {f"{entry['id']}.{key}" for key in keys} <= translated
        else:
            assert f"{entry['id']}.dataset_type" in translated


def test_the_seeds_lowest_vram_config_comes_through_value_by_value() -> None:
    found = load_recipe(SEED / "lowest-vram.config.json")
    assert found.model.pretrained_model_name_or_path == "Lightricks/LTX-2"
    assert (found.training.learning_rate, found.training.lr_warmup_steps) == (6e-5, 50)
    assert (found.training.max_train_steps, found.training.num_train_epochs) == (200, 0)
    assert (found.training.max_grad_norm, found.training.train_batch_size) == (0.1, 2)
    assert found.data.resolution == 480
    assert found.validation.validation_disable
    assert found.validation.validation_num_video_frames == 81
    assert found.validation.validation_resolution == "768x512"
    prompt = json.loads((SEED / "lowest-vram.config.json").read_text())["validation_prompt"]
    assert found.validation.validation_prompts == {"prompt": prompt}, "letter for letter"
    assert found.tracking.tracker_run_name == "example-training-run"


def test_the_seeds_routes_and_rollouts_come_through(tmp_path: Path) -> None:
    (route,) = load_recipe(SEED / "tread.config.json").tread.routes
    assert (route.selection_ratio, route.start_layer_idx, route.end_layer_idx) == (0.5, 2, -2)
    assert [(s.start, s.end) for s in load_recipe(SEED / "tread.config.json").tread.spans(48)] == [(2, 46)]
    keys = {"max_step_offset": 12, "probability": 0.25, "ramp_shape": "cosine", "reflexflow_beta1": 2}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({f"--scheduled_sampling_{name}": value for name, value in keys.items()}))
    found = load_recipe(file).scheduled_sampling
    assert found.scheduled_sampling_max_step_offset == 12
    assert (found.probability(0), found.probability(1000)) == (0.25, 0.25)
    assert found.scheduled_sampling_ramp_shape == "cosine"
    assert found.scheduled_sampling_reflexflow_beta1 == 2
    # The seed turns ReflexFlow off without rollouts, which asks for nothing.
    assert not load_recipe(SEED / "lowest-vram.config.json").scheduled_sampling.enabled


def test_a_route_that_cannot_be_names_key_and_line(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    route = {"selection_ratio": 1.0, "start_layer_idx": 2, "end_layer_idx": -2}
    file.write_text(json.dumps({"seed": 1, "tread_config": {"routes": [route]}}, indent=0))
    with pytest.raises(ConfigError, match=r"config.json:3: tread.routes.0.selection_ratio: .* less than 1"):
        load_recipe(file)


def test_what_is_not_built_is_warned_of_and_never_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text('{"max_train_steps": 5, "evaluation_type": "clip"}')
    load_recipe(tmp_path / "config.json")
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("evaluation_type: not yet: " in text for text in warned)


def test_the_seeds_memory_keys_are_the_recipes_own() -> None:
    found = load_recipe(SEED / "lowest-vram.config.json")
    assert (found.model.model_flavour, found.model.base_model_precision) == ("dev", "int8-quanto")
    assert found.memory.forced == "ramtorch"
    assert found.model.text_encoder_loading == "layer_by_layer"
    encode = found.encode
    assert encode.vae_enable_tiling
    assert encode.vae_enable_slicing
    assert encode.vae_enable_patch_conv
    assert encode.vae_enable_temporal_roll
    offload = load_recipe(SEED / "group-offload.config.json").memory
    assert offload.forced == "group_offload"
    assert offload.group_offload_use_stream


def recipe_keys() -> set[str]:
    """The names of all keys of all parts of a recipe."""
    found: set[str] = set()
    for name, field in Recipe.model_fields.items():
        # `threads` is a key by itself.
        found |= set(getattr(field.annotation, "model_fields", [name]))
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_no_key_of_the_seed_that_the_recipe_knows_is_called_not_yet(path: Path) -> None:
    lines = translate_config(json.loads(path.read_text()), path).lines
    assert [line.key for line in lines if line.verdict == "not yet" and line.key in recipe_keys()] == []


def test_no_rule_calls_a_key_not_yet_that_the_recipe_knows() -> None:
    assert [key for key, rule in TRAINING.items() if rule.verdict == "not yet" and key in recipe_keys()] == []


def test_every_rule_says_something_where_it_does_not_just_take_a_value() -> None:
    for table in (TRAINING, DATASETS):
        for key, rule in table.items():
            assert rule.to if rule.verdict == "taken" else rule.why, key
            assert all(case.why or case.to for case in rule.cases.values()), key


def test_every_target_of_a_rule_is_a_key_of_the_recipe() -> None:
    for key, rule in TRAINING.items():
        for path in rule.to:
            section, name = path.split(".")
            assert name in Recipe.model_fields[section].annotation.model_fields, key  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("--learning_rate", "1e-4", "taken"),
        ("learning_rate", 1e-4, "taken"),
        ("validation_num_video_frames", 61, "rounded"),
        ("validation_num_video_frames", 49, "taken"),
        ("validation_resolution", "720x1280", "rounded"),
        ("validation_resolution", "1.0", "refused"),
        ("validation_prompt", "a fox", "renamed"),
        ("peft_lora_target_modules", '["to_q"]', "renamed"),
        ("peft_lora_target_modules", "to_q", "refused"),
        ("ramtorch", "false", "taken"),
        ("ramtorch", True, "taken"),
        ("ramtorch_text_encoder", True, "renamed"),
        ("ramtorch_text_encoder", False, "moot"),
        ("ramtorch_vae", True, "taken"),
        ("ramtorch_vae", False, "moot"),
        ("evaluation_type", "clip", "not yet"),
        ("musubi_blocks_to_swap", 6, "taken"),
        ("musubi_block_swap_device", "cpu", "moot"),
        ("group_offload_type", "leaf_level", "moot"),
        ("enable_group_offload", True, "taken"),
        ("base_model_precision", "no_change", "taken"),
        ("base_model_precision", "nf4-bnb", "taken"),
        ("base_model_precision", "fp4-bnb", "not yet"),
        ("vae_enable_tiling", True, "taken"),
        ("vae_batch_size", 4, "taken"),
        ("model_flavour", "dev-fp8", "taken"),
        ("base_model_precision", "int9-quanto", "refused"),
        ("model_type", "full", "refused"),
        ("model_flavour", "2.5-dev", "taken"),
        ("model_flavour", "2.7", "refused"),
        ("optimizer", "adamw", "taken"),
        ("optimizer", "lion", "refused"),
        ("grad_clip_method", "value", "taken"),
        ("vae_dtype", "fp16", "refused"),
        ("lycoris_config", "config/lycoris.json", "moot"),
        ("hub_model_id", "me/lora", "moot"),
        ("crepa_lambda", 0.5, "moot"),
        ("crepa_drop_vae_encoder", True, "moot"),
        ("dynamo_mode", "", "moot"),
        ("tread_config", {"routes": []}, "renamed"),
        ("tread_config", {"route": []}, "refused"),
        ("scheduled_sampling_sampler", "euler", "moot"),
        ("scheduled_sampling_sampler", "dpm", "moot"),
        ("resume_from_checkpoint", "latest", "taken"),
        ("ema_validation", "comparison", "moot"),
        ("seed", 0, "taken"),
    ],
)
def test_verdicts(key: str, value: Any, expected: Verdict) -> None:
    assert (
        next(line.verdict for line in translate(**{key: value}).lines if key.endswith(line.key)) == expected
    )


def test_the_adapter_and_the_optimizer_come_through(tmp_path: Path) -> None:
    lycoris = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 16}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "lycoris_config.json").write_text(json.dumps(lycoris))
    config = tmp_path / "config" / "config.json"
    config.write_text(
        json.dumps(
            {
                "lora_type": "lycoris",
                "lycoris_config": "config/lycoris_config.json",
                "optimizer": "adamw_bf16",
                "lr_scheduler": "sine",
                "lr_end": 1e-6,
                "use_ema": True,
                "ema_validation": "ema_only",
                "resume_from_checkpoint": "checkpoint-50",
                "dynamo_mode": "reduce-overhead",
                "max_train_steps": 10,
            }
        )
    )
    found = load_recipe(config)
    assert found.lora.lycoris is not None
    assert found.lora.lycoris.model_dump(exclude_defaults=True) == {
        "algo": "lokr",
        "linear_dim": 10000,
        "factor": 16,
    }
    training = found.training
    assert (training.optimizer, training.lr_scheduler, training.lr_end) == ("adamw_bf16", "sine", 1e-6)
    assert (training.use_ema, training.ema_validation) == (True, "ema_only")
    assert (training.torch_compile, training.dynamo_mode) == (True, "reduce-overhead")
    assert training.resume_from_checkpoint == "checkpoint-50"


def test_averages_are_compared_where_nothing_else_is_said() -> None:
    assert verdict("ema_validation", "comparison", use_ema=True) == "taken"
    found = translate(use_ema=True)
    assert found.data["training"]["ema_validation"] == "comparison"
    assert [line.verdict for line in found.lines if line.key == "ema_validation"] == ["added"]
    assert "ema_validation" not in translate(use_ema=False).data["training"]


def test_an_upload_that_is_asked_for_goes_to_a_private_repository(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"max_train_steps": 5, "push_to_hub": true, "hub_model_id": "lora"}')
    hub = load_recipe(config).hub
    assert (hub.push_to_hub, hub.hub_model_id, hub.hub_private) == (True, "lora", True)
    line = next(line for line in translate(push_to_hub=True).lines if line.key == "push_to_hub")
    assert "private repository" in line.message
    config.write_text('{"max_train_steps": 5, "push_to_hub": true}')
    with pytest.raises(ConfigError, match="push_to_hub is true, but it is not said where to"):
        load_recipe(config)


def test_keys_that_hang_on_another_one_follow_it() -> None:
    assert verdict("crepa_lambda", 0.5, crepa_enabled=True) == "taken"
    assert verdict("hub_model_id", "me/lora", push_to_hub="true") == "taken"
    assert verdict("push_to_hub", "true", hub_model_id="me/lora") == "taken"
    assert verdict("push_to_hub", "false") == "moot"
    assert verdict("lycoris_config", "l.json", lora_type="lycoris") == "refused", "there is no such file"
    assert verdict("scheduled_sampling_probability", 0.5, scheduled_sampling_max_step_offset=20) == "renamed"
    assert verdict("scheduled_sampling_probability", 0.5) == "moot"
    rollout = {"scheduled_sampling_max_step_offset": 20}
    assert verdict("scheduled_sampling_sampler", "unipc", **rollout) == "moot", "its default there"
    assert verdict("scheduled_sampling_sampler", "dpm", **rollout) == "not yet"
    assert verdict("scheduled_sampling_sampler", "euler2", **rollout) == "refused"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rat": 1}, r"learning_rat: is not a known key; did you mean `learning_rate`\?"),
        ({"num_train_epochs": 2}, "both num_train_epochs and max_train_steps are given"),
        ({"num_train_epochs": 0, "max_train_steps": 0}, "are 0; give one of them"),
        ({"frame_rate": 25, "framerate": 24}, "is 24, but another key has set data.frame_rate to 25"),
        ({"validation_adapter_path": "a", "validation_adapter_config": [1]}, "keep one of them"),
        ({"model_type": "full"}, "only a LoRA is trained here"),
    ],
)
def test_what_is_refused_says_what_to_write(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(**config).check()


def test_strict_refuses_what_is_not_built_and_names_the_line() -> None:
    found = translate_config({"evaluation_type": "clip"}, Path("config.json"), {("evaluation_type",): 7})
    found.check()
    with pytest.raises(ConfigError, match=r"config\.json:7: evaluation_type: not yet: renderings"):
        found.check(strict=True)


def test_the_length_in_epochs_and_both_names_of_the_frame_rate() -> None:
    found = recipe(max_train_steps=0, num_train_epochs=3)
    assert (found.training.num_train_epochs, found.training.max_train_steps) == (3, 0)
    assert Recipe.model_validate(found.fingerprint_data()) == found
    for key in ("frame_rate", "framerate"):
        assert recipe(**{key: 24}).validation.validation_frame_rate == 24
        assert recipe(**{key: 24}).data.frame_rate == 24


def test_a_prompt_library_is_read_beside_the_config_and_joined_with_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "library.json").write_text('{"red fox": "A fox.", "owl": "An owl."}')
    config = tmp_path / "config.json"
    config.write_text(
        '{\n\t"validation_prompt": "A bear.",\n\t"validation_prompt_library": "library.json"\n}'
    )
    prompts = load_recipe(config).validation.validation_prompts
    assert prompts == {"prompt": "A bear.", "red-fox": "A fox.", "owl": "An owl."}
    config.write_text('{"validation_prompt_library": "nowhere.json"}')
    with pytest.raises(
        ConfigError, match=r"config\.json:1: .*there is no file nowhere\.json, neither beside"
    ):
        load_recipe(config)


def test_a_wrong_value_is_reported_with_the_line_of_the_json_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{\n "max_train_steps": 5,\n "learning_rate": -1\n}')
    with pytest.raises(ConfigError, match=r"config\.json:3: training\.learning_rate: .*found -1"):
        load_recipe(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{\n "max_train_steps": 5,\n}')
    with pytest.raises(ConfigError, match=r"config\.json:3: is not JSON"):
        load_recipe(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ("shifted_logit_normal", None, False)),
        ({"flow_schedule_shift": 3.0}, ("logit_normal", 3.0, False)),
        ({"flow_schedule_shift": "3"}, ("logit_normal", 3.0, False)),
        ({"flow_schedule_shift": 0}, ("logit_normal", 1.0, False)),
        ({"flow_schedule_auto_shift": True}, ("logit_normal", None, True)),
        ({"flow_schedule_auto_shift": True, "flow_schedule_shift": 0}, ("logit_normal", None, True)),
        ({"flow_use_uniform_schedule": True, "flow_schedule_shift": 2}, ("uniform", 2.0, False)),
        ({"flow_use_beta_schedule": True}, ("beta", None, False)),
        (
            {"flow_use_uniform_schedule": False, "flow_use_beta_schedule": False},
            ("shifted_logit_normal", None, False),
        ),
    ],
)
def test_the_schedules_of_noise_become_one_choice(
    config: dict[str, Any], expected: tuple[str, float | None, bool]
) -> None:
    found = recipe(**config).training
    assert (found.flow_schedule, found.flow_schedule_shift, found.flow_schedule_auto_shift) == expected


def test_the_parameters_of_the_beta_schedule_need_it() -> None:
    alpha = {"flow_beta_schedule_alpha": 1.5}
    assert recipe(flow_use_beta_schedule=True, **alpha).training.beta == (1.5, 2.0)
    assert recipe(**alpha).training.flow_beta_schedule_alpha is None
    assert verdict("flow_beta_schedule_alpha", 1.5) == "moot"


@pytest.mark.parametrize(
    "config",
    [
        {"flow_use_uniform_schedule": True, "flow_use_beta_schedule": True},
        {"flow_schedule_shift": 3.0, "flow_schedule_auto_shift": True},
        {"flow_schedule_shift": "much"},
    ],
)
def test_contradictory_schedules_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="flow_"):
        recipe(**config)


def test_the_adapters_of_the_seed_are_taken_with_their_labels(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    repo = "Lightricks/LTX-2-19b-IC-LoRA-Canny-Control:ltx-2-19b-ic-lora-canny-control.safetensors"
    listed = [
        {"label": "canny", "path": repo},
        {"name": "both", "adapters": [repo, {"path": "mine.safetensors", "scale": 0.5}]},
    ]
    for given in (listed, json.dumps(listed), {"validation_adapter_config": listed}):
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"validation_adapter_config": given}))
        runs = load_recipe(config).validation.adapter_runs
        assert [label for label, _ in runs] == ["", "canny", "both"]
        assert [(a.path, a.strength) for a in runs[2][1]] == [
            (repo, 1.0),
            (str(tmp_path / "mine.safetensors"), 0.5),
        ]
    assert recipe(validation_adapter_path=repo).validation.adapter_runs[0][1][0].path == repo
    assert recipe(validation_steps=50).validation.validation_step_interval == 50


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([{"label": "a b", "path": "x:y"}], "write letters, digits"),
        ([{"label": "a", "path": "x"}, {"label": "a", "path": "y"}], "label 'a' twice"),
        ([{"label": "a", "name": "b", "path": "x"}], "both `label` and `name`"),
        ([{"label": "a", "path": "x", "adapters": ["y"]}], "both `path` and `adapters`"),
        ([{"label": "a", "adapters": []}], "adapters"),
        ([{"path": "x"}], "label"),
        ([{"label": "a", "pth": "x"}], "did you mean `path`|not a known key"),
        ("nowhere.json", "cannot be read"),
        ([1], "write a list such as"),
    ],
)
def test_adapters_that_are_wrong_are_refused_by_name(runs: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"validation_adapter_config": runs}))
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "config.json")
