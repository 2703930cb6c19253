"""LTX-2.5's diffusion decoder: read in both layouts, computed block by block, and what it renders."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.files.diffusion_decoder import decoder_of, open_decoder, smallest_rendering
from ltxcore.models.files.latent_upsampler import open_upsampler
from ltxcore.models.files.loading import load_diffusion_decoder
from ltxcore.models.files.source import ModelSource
from ltxcore.models.vae.neighbourhood import BlockedNeighbourhood, neighbourhood_attention
from ltxcore.models.vae.ways import Tiles
from ltxcore.models.versions import VERSIONS
from ltxcore.store.fingerprint import derive_seed
from ltxcore.validation.components import load_components
from ltxcore.validation.decoding import decode_within_memory, diffusion_decoded
from ltxcore.validation.render import Renderer
from tests.rounding import assert_alike
from tests.unit.validation.diffusion_decoders import tiny_decoder, write_decoder, write_pack
from tests.unit.validation.test_render import features_of, plan
from tests.unit.validation.upsamplers import tiny_upsampler, write_file

DECODING = 4000
"""Terms of a pixel: six blocks of attention over up to 125 cells, and their linears."""


@pytest.fixture(scope="module")
def source(tinies: dict[str, ModelSource]) -> ModelSource:
    return tinies["2.5"]


@pytest.fixture(scope="module")
def pack(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tiny_decoder(source), tmp_path_factory.mktemp("decoder") / "video-vae.safetensors")


def windows_one_by_one(q: Any, k: Any, v: Any, kernel: tuple[int, int, int]) -> torch.Tensor:
    """The definition: for each cell the window around it, moved inward at the edges."""
    found = torch.empty_like(q)
    for cell in np.ndindex(*q.shape[1:4]):
        inside = tuple(
            slice(start, start + size)
            for start, size in (
                (min(max(at - size // 2, 0), length - size), size)
                for at, size, length in zip(cell, kernel, q.shape[1:4], strict=True)
            )
        )
        keys, values = (x[:, inside[0], inside[1], inside[2]].flatten(1, 3) for x in (k, v))
        weights = torch.einsum("bhd,bnhd->bhn", q[:, *cell], keys).softmax(-1)
        found[:, *cell] = torch.einsum("bhn,bnhd->bhd", weights, values)
    return found


@pytest.mark.parametrize(
    ("grid", "kernel", "block"),
    [
        ((4, 6, 5), (3, 3, 3), (4, 8, 8)),
        ((5, 7, 6), (3, 5, 5), (2, 3, 2)),
        ((3, 5, 4), (3, 5, 4), (1, 2, 3)),
        ((4, 4, 4), (3, 2, 2), (4, 3, 1)),
    ],
)
def test_blocks_of_queries_see_what_each_cell_sees(
    grid: tuple[int, int, int], kernel: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    q, k, v = (torch.randn(1, *grid, 2, 8, dtype=torch.float64) for _ in range(3))
    found = neighbourhood_attention(q, k, v, kernel, block)
    assert torch.allclose(found, windows_one_by_one(q, k, v, kernel), atol=1e-12)


def test_both_layouts_hold_the_same_decoder_and_decode_like_diffusers(
    source: ModelSource, pack: Path, tmp_path: Path
) -> None:
    from diffusers import LTX2VideoDiffusionDecodePipeline

    own = tiny_decoder(source)
    folder = open_decoder(write_decoder(own, tmp_path) / "diffusion_decoder")
    latents = torch.randn(1, 16, 2, 2, 3)
    generator = torch.Generator().manual_seed(derive_seed(3, "diffusion decoder"))
    (wanted,) = LTX2VideoDiffusionDecodePipeline(own, None)(
        latents, generator, output_type="pt", return_dict=False, denormalize=False
    )
    assert wanted.shape == (1, 9, 3, 64, 96)
    assert wanted.std() > 0.01
    for found in (folder, open_decoder(pack)):
        model = load_diffusion_decoder(found, torch.float32, "cpu")
        weights = model.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in own.state_dict().items())
        assert_alike(diffusion_decoded(model, latents, 3), wanted, DECODING)
        assert not torch.equal(diffusion_decoded(model, latents, 4), diffusion_decoded(model, latents, 3))


def test_a_pack_beside_the_others_is_the_models_own(source: ModelSource, pack: Path, tmp_path: Path) -> None:
    shutil.copytree(source.component("vae"), tmp_path / "vae")
    shutil.copy(pack, tmp_path / "vae")
    beside = replace(source, root=tmp_path)
    assert decoder_of(ModelSettings(), beside).path == tmp_path / "vae" / pack.name
    named = ModelSettings(diffusion_decoder=str(pack))
    assert decoder_of(named, beside).path == pack


def test_it_makes_the_pictures_of_a_rendering_and_the_sound_stays(
    source: ModelSource, pack: Path, tmp_path: Path
) -> None:
    texts = list(features_of(source).values())
    file = write_file(tiny_upsampler(source), tmp_path / "x2.safetensors")
    parts = load_components(
        source,
        torch.float32,
        "cpu",
        upsampler=open_upsampler(file),
        diffusion_decoder=open_decoder(pack),
    )
    renderer = Renderer(parts, plan())
    plain = plan(validation_guidance=1.0)
    conv = renderer.render("ball", *texts, plan=plain)
    found = renderer.render("ball", *texts, plan=replace(plain, decoder="diffusion"))
    torch.manual_seed(9)
    again = renderer.render("ball", *texts, plan=replace(plain, decoder="diffusion"))
    assert np.array_equal(found.audio, conv.audio)
    assert found.frames.shape == conv.frames.shape
    assert not np.array_equal(found.frames, conv.frames)
    assert np.std(found.frames) > 1
    assert np.array_equal(found.frames, again.frames)
    large = renderer.render("ball", *texts, plan=replace(plain, decoder="diffusion", upscale=2))
    assert large.frames.shape == (9, 128, 128, 3)
    assert np.array_equal(renderer.render("ball", *texts, plan=plain).frames, conv.frames)
    alone = renderer.render("ball", *texts, plan=replace(plain, decoder="diffusion").of("video"))
    assert alone.audio.shape[1] == 0
    assert alone.frames.shape == conv.frames.shape


def test_tiles_after_a_lack_of_memory_are_those_that_were_asked_for(
    source: ModelSource, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, found = torch.randn(1, 16, 2, 17, 3), open_decoder(pack)
    tiles = Tiles(512, 448)
    asked = load_diffusion_decoder(found, torch.float32, "cpu")
    decode_within_memory(asked, tiles)
    wanted = diffusion_decoded(asked, latents, 1)
    small = load_diffusion_decoder(found, torch.float32, "cpu")
    decode, failed = small.decode, list[bool]()

    def short_of_memory(z: torch.Tensor, generator: torch.Generator, **more: Any) -> Any:
        if not small.use_tiling:
            torch.randn(100, generator=generator)
            failed.append(True)
            raise RuntimeError("CUDA out of memory")
        return decode(z, generator=generator, **more)

    monkeypatch.setattr(small, "decode", short_of_memory)
    on_demand = decode_within_memory(small)
    assert torch.equal(diffusion_decoded(small, latents, 1), wanted)
    assert failed
    assert on_demand.steps
    # Tiles draw noise of their own, so that they are other pictures than the whole.
    whole = load_diffusion_decoder(found, torch.float32, "cpu")
    assert not torch.equal(diffusion_decoded(whole, latents, 1), wanted)


def test_the_least_size_is_where_the_decoder_itself_begins(source: ModelSource) -> None:
    released = VERSIONS["2.5"].diffusion_decoder
    assert released is not None
    assert smallest_rendering(released) == (17, 224)
    for changes, least in (
        ({}, (9, 64)),
        ({"decoder_stage5_kernel": (11, 5, 5)}, (17, 64)),
        ({"decoder_stage_kernels": ((3, 3, 3), *[(3, 3, 3)] * 3)}, (9, 96)),
    ):
        model = tiny_decoder(source, **changes)
        model.set_attn_processor(BlockedNeighbourhood())
        frames, edge = smallest_rendering(model.config)
        assert (frames, edge) == least
        cells, rows = (frames - 1) // 8 + 1, edge // 32
        with torch.no_grad():
            model.decode(torch.randn(1, 16, cells, rows, rows), generator=torch.Generator())
            for smaller in ((cells - 1, rows, rows), (cells, rows - 1, rows)):
                with pytest.raises(ValueError, match="at least its kernel size"):
                    model.decode(torch.randn(1, 16, *smaller), generator=torch.Generator())
