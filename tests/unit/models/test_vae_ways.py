"""Clips in pieces and tiles through the video VAE, against the whole clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltxcore.config.encode_settings import EncodeSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files import loading
from ltxcore.models.files.source import ModelSource
from ltxcore.models.vae.chunks import encode_in_pieces, pieces
from ltxcore.models.vae.video_latents import encode_video, encode_videos
from ltxcore.models.vae.ways import LARGE_TILES, SMALL_TILES, Tiles, VaeWay, asked_way, ways_from
from tests.rounding import assert_alike, terms_of


@pytest.fixture(scope="module", params=["2.0", "2.3"])
def vae(request: pytest.FixtureRequest, tinies: dict[str, ModelSource]) -> Any:
    """2.5's is 2.3's."""
    return loading.load_video_vae(tinies[request.param], torch.float32, "cpu")


def _pixels(frames: int, batch: int = 1, height: int = 64, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, height, width, generator=generator) * 2 - 1


def _encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(pixels).latent_dist.mode()


@pytest.mark.parametrize("frames", [1, 9, 17, 25, 33, 57])
def test_pieces_give_the_latents_of_the_whole_clip(vae: Any, frames: int) -> None:
    pixels = _pixels(frames, batch=2 if frames == 17 else 1)
    whole = _encode(vae, pixels)
    for piece_frames in (8, 16, 32):
        with encode_in_pieces(vae, piece_frames):
            found = _encode(vae, pixels)
        assert found.shape == whole.shape
        assert_alike(found, whole, terms_of(vae.encoder))
    # Afterwards the VAE is as it was, and nothing of the clip is left in it.
    assert torch.equal(_encode(vae, pixels), whole)
    assert not any("forward" in vars(module) for module in vae.modules())


def test_pieces_give_the_whole_clips_latents_in_bf16(vae: Any) -> None:
    pixels, small = _pixels(25).bfloat16(), vae.to(torch.bfloat16)
    whole = _encode(small, pixels).float()
    with encode_in_pieces(small, 8):
        found = _encode(small, pixels).float()
    vae.to(torch.float32)
    assert (found - whole).abs().max() <= 2**-6 * whole.abs().max()


def test_pieces_work_below_tiles_and_slices(vae: Any) -> None:
    pixels = _pixels(17, batch=2, height=96, width=96)
    tiles = Tiles(64, 32)
    vae.use_slicing = True
    with VaeWay(None, tiles).applied(vae):
        whole = _encode(vae, pixels)
    with VaeWay(8, tiles).applied(vae):
        found = _encode(vae, pixels)
    vae.use_slicing = False
    assert_alike(found, whole, terms_of(vae.encoder))
    assert not vae.use_tiling
    assert (found - _encode(vae, pixels)).abs().max() > 1e-3, "tiles are not the whole picture"


def test_a_batch_gives_each_clips_own_latents(vae: Any) -> None:
    clips = torch.randint(0, 256, (3, 9, 32, 32, 3), dtype=torch.uint8)
    for clip, latents in zip(clips, encode_videos(vae, list(clips)), strict=True):
        alone = encode_video(vae, clip)
        assert (alone.float() - latents.float()).abs().max() <= 2**-7 * alone.float().abs().max()


def test_a_piece_keeps_little_of_the_clip_in_memory(vae: Any) -> None:
    """The largest tensor that any module sees shrinks with the pieces, whatever the clip's length."""

    def largest(way: VaeWay, frames: int) -> int:
        seen = [0]
        handles = [
            m.register_forward_hook(lambda mod, args, out: seen.append(out.numel()))
            for m in vae.encoder.modules()
            if m is not vae.encoder
        ]
        with way.applied(vae):
            _encode(vae, _pixels(frames))
        for handle in handles:
            handle.remove()
        return max(seen)

    assert largest(VaeWay(8), 57) == largest(VaeWay(8), 25) < largest(VaeWay(), 57) / 6


def test_pieces_are_groups_of_eight_frames_after_the_first() -> None:
    assert pieces(57, 16, 8) == [9, 16, 16, 16]
    assert pieces(33, 8, 8) == [1, 8, 8, 8, 8]
    assert pieces(9, 32, 8) == [9]
    assert sum(pieces(121, 32, 8)) == 121
    with pytest.raises(ValueError, match="a multiple of 8 frames; found 12"):
        pieces(57, 12, 8)


def test_an_encoder_that_looks_ahead_is_refused(vae: Any) -> None:
    vae.encoder.is_causal = False
    try:
        with pytest.raises(ModelError, match="not causal"), encode_in_pieces(vae, 8):
            pass
    finally:
        vae.encoder.is_causal = True


def test_a_tiling_is_named_only_where_it_changes_values() -> None:
    way = VaeWay(8, LARGE_TILES)
    assert way.tiling(512, 320) == "none"
    assert way.tiling(768, 320) == "512/448"
    assert VaeWay(8).tiling(768, 320) == "none"


def test_the_recipes_keys_choose_the_way() -> None:
    assert asked_way(EncodeSettings()) == VaeWay()
    assert asked_way(EncodeSettings(vae_enable_patch_conv=True)) == VaeWay(16)
    both = EncodeSettings(vae_enable_patch_conv=True, vae_enable_temporal_roll=True, vae_enable_tiling=True)
    assert asked_way(both) == VaeWay(8, LARGE_TILES)


def test_every_further_way_takes_less_memory() -> None:
    assert [w.name for w in ways_from(VaeWay(), 121, 1280, 704)] == [
        "whole clips",
        "pieces of 32 frames",
        "pieces of 16 frames",
        "pieces of 8 frames",
        "pieces of 8 frames, tiles of 512",
        "pieces of 8 frames, tiles of 256",
    ]
    # A clip of one frame in a small picture has one way only.
    assert list(ways_from(VaeWay(), 1, 256, 256)) == [VaeWay()]
    assert list(ways_from(VaeWay(), 17, 320, 256)) == [
        VaeWay(),
        VaeWay(8),
        VaeWay(8, SMALL_TILES),
    ]
    assert list(ways_from(VaeWay(None, LARGE_TILES), 49, 768, 512))[1:] == [
        VaeWay(8, LARGE_TILES),
        VaeWay(8, SMALL_TILES),
    ]
