"""Names of weights in the reference's combined checkpoint, and in diffusers' components.

ltx2-facts section 9. Every rule works both ways: the writer of tiny combined checkpoints uses them too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TRANSFORMER_PREFIX = "model.diffusion_model."
PROJECTION_PREFIX = "text_embedding_projection."
_STATISTICS = "per_channel_statistics."
WITH_STATISTICS = ("vae", "audio_vae")
NEVER_READ = ("duration_head.",)
"""Parts from 2.5 on that neither training nor rendering needs."""
# Four downsampling stages: 0, 2, 4, 6 are their blocks, 1, 3, 5, 7 what shrinks after each, 8 the middle.
_LAST_DOWN_BLOCK = 8

REFERENCE_MODULES: Mapping[str, str] = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}
"""First part of a transformer module's name in diffusers -> in the reference and ComfyUI."""

_PARTS: Mapping[str, Mapping[str, str]] = {
    "transformer": {
        **REFERENCE_MODULES,
        "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
        "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
        "norm_q": "q_norm",
        "norm_k": "k_norm",
    },
    "connectors": {
        "video_connector": "video_embeddings_connector",
        "audio_connector": "audio_embeddings_connector",
        "text_proj_in": "aggregate_embed",
        "video_text_proj_in": "video_aggregate_embed",
        "audio_text_proj_in": "audio_aggregate_embed",
        "transformer_blocks": "transformer_1d_blocks",
        "norm_q": "q_norm",
        "norm_k": "k_norm",
    },
    "vae": {"resnets": "res_blocks", "latents_mean": "mean-of-means", "latents_std": "std-of-means"},
    "audio_vae": {"latents_mean": "mean-of-means", "latents_std": "std-of-means"},
    "vocoder": {
        "upsamplers": "ups",
        "resnets": "resblocks",
        "conv_in": "conv_pre",
        "conv_out": "conv_post",
        "act_out": "act_post",
    },
}
_TO_DIFFUSERS = {
    component: {reference: name for name, reference in parts.items()} for component, parts in _PARTS.items()
}
_PROJECTIONS = ("aggregate_embed", "video_aggregate_embed", "audio_aggregate_embed")
CONNECTORS = tuple(f"{TRANSFORMER_PREFIX}{name}_embeddings_connector." for name in ("video", "audio"))
_STATISTICS_READ = ("mean-of-means", "std-of-means")
STATISTICS_UNREAD = ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")
"""Statistics that released files hold beside the two that a model is made of."""


def locate(reference: str) -> tuple[str, str] | None:
    """Component and diffusers name of a stored name.

    None: it belongs to no component, or to the statistics that nothing reads.
    """
    component, rest = _split(reference)
    if component is None:
        return None
    if component in WITH_STATISTICS and rest.startswith(_STATISTICS):
        # The whole name decides: `mean-of-stds_over_std-of-means` ends like one that is read.
        rest = rest.removeprefix(_STATISTICS)
        if rest not in _STATISTICS_READ:
            return None
    if component == "vae":
        rest = _group_blocks(rest)
    elif component == "vocoder":
        rest = rest.replace(".downsample.lowpass.", ".downsample.")
    return component, _by_part(rest, _TO_DIFFUSERS[component])


def is_known(reference: str) -> bool:
    """Whether a name belongs to the layout, whether or not it is read."""
    return _split(reference)[0] is not None or reference.startswith(NEVER_READ)


def to_reference(component: str, name: str) -> str:
    """The stored name of a component's weight."""
    rest = _by_part(name, _PARTS[component])
    if component == "transformer":
        return TRANSFORMER_PREFIX + rest
    if component == "connectors":
        projection = rest.split(".")[0] in _PROJECTIONS
        return (PROJECTION_PREFIX if projection else TRANSFORMER_PREFIX) + rest
    if rest in _STATISTICS_READ:
        return statistic(component, rest)
    if component == "vae":
        rest = _flatten_blocks(rest)
    elif component == "vocoder":
        rest = rest.replace(".downsample.", ".downsample.lowpass.")
    return f"{component}.{rest}"


def statistic(component: str, name: str) -> str:
    """The stored name of a VAE's statistic."""
    return f"{component}.{_STATISTICS}{name}"


def _split(reference: str) -> tuple[str | None, str]:
    if reference.startswith(CONNECTORS):
        return "connectors", reference.removeprefix(TRANSFORMER_PREFIX)
    for prefix, component in (
        (TRANSFORMER_PREFIX, "transformer"),
        (PROJECTION_PREFIX, "connectors"),
        ("vae.", "vae"),
        ("audio_vae.", "audio_vae"),
        ("vocoder.", "vocoder"),
    ):
        if reference.startswith(prefix):
            return component, reference.removeprefix(prefix)
    return None, reference


def _by_part(name: str, parts: Mapping[str, str]) -> str:
    return ".".join(parts.get(part, part) for part in name.split("."))


def _group_blocks(name: str) -> str:
    """The reference's flat list of blocks to diffusers' stages."""

    def down(match: re.Match[str]) -> str:
        number = int(match[1])
        if number == _LAST_DOWN_BLOCK:
            return "encoder.mid_block"
        return f"encoder.down_blocks.{number // 2}" + (".downsamplers.0" if number % 2 else "")

    def up(match: re.Match[str]) -> str:
        number = int(match[1])
        if number == 0:
            return "decoder.mid_block"
        stage = (number - 1) // 2
        return f"decoder.up_blocks.{stage}" + (".upsamplers.0" if number % 2 else "")

    name = re.sub(r"^encoder\.down_blocks\.(\d+)", down, name)
    return re.sub(r"^decoder\.up_blocks\.(\d+)", up, name)


def _flatten_blocks(name: str) -> str:
    """The reverse of `_group_blocks`."""

    def down(match: re.Match[str]) -> str:
        return f"encoder.down_blocks.{2 * int(match[1]) + (match[2] is not None)}"

    def up(match: re.Match[str]) -> str:
        return f"decoder.up_blocks.{2 * int(match[1]) + (1 if match[2] is not None else 2)}"

    if name.startswith("encoder.mid_block"):
        return name.replace("mid_block", f"down_blocks.{_LAST_DOWN_BLOCK}", 1)
    if name.startswith("decoder.mid_block"):
        return name.replace("mid_block", "up_blocks.0", 1)
    name = re.sub(r"^encoder\.down_blocks\.(\d+)(\.downsamplers\.0)?", down, name)
    return re.sub(r"^decoder\.up_blocks\.(\d+)(\.upsamplers\.0)?", up, name)
