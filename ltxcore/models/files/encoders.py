"""What latents depend on of a VAE: its encoder. A decoder may change, and every latent stays what it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

W = TypeVar("W")
ENCODER_KEYS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "vae": {
            "patch_size": 4,
            "patch_size_t": 1,
            "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
            "spatio_temporal_scaling": (True, True, True, True),
            "encoder_causal": True,
            "encoder_spatial_padding_mode": "zeros",
            "resnet_norm_eps": 1e-6,
            "scaling_factor": 1.0,
        },
        "audio_vae": {
            "attn_resolutions": None,
            "norm_type": "pixel",
            "causality_axis": "height",
            "mid_block_add_attention": False,
            "sample_rate": 16_000,
            "mel_hop_length": 160,
            "mel_bins": 64,
            "is_causal": True,
            "double_z": True,
        },
    }
)
"""Keys of a VAE's configuration that its encoder reads and that the shapes of its weights do not show, with
the classes' defaults: layouts that leave a key out mean the same latents."""
_PREFIX: Final = "encoder."
_STATISTICS: Final = ("latents_mean", "latents_std")


def encoder_config(component: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a VAE's configuration says of its encoder."""
    return {key: config.get(key, usual) for key, usual in ENCODER_KEYS[component].items()}


def encoder_weights(weights: Mapping[str, W]) -> dict[str, W]:
    """The weights of a VAE's encoder, and the statistics that latents are normalised with."""
    return {n: weight for n, weight in weights.items() if n.startswith(_PREFIX) or n in _STATISTICS}
