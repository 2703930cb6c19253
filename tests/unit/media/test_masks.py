"""Masks in the cells of the latents."""

from __future__ import annotations

import numpy as np

from ltxcore.media.masks import white_shares


def frames(count: int) -> np.ndarray:
    return np.zeros((count, 64, 96, 3), np.uint8)


def test_a_share_is_whites_part_of_a_cell_in_space_and_time() -> None:
    pixels = frames(17)
    pixels[0, :32, :32] = 255
    pixels[1, 32:, 64:80] = 255
    pixels[9:17, 0, 32] = 255
    expected = np.zeros((3, 2, 3), np.float32)
    expected[0, 0, 0] = 1
    expected[1, 1, 2] = 0.5 / 8
    expected[2, 0, 1] = 1 / 1024
    assert np.array_equal(white_shares(pixels, 17), expected)


def test_what_compression_leaves_of_black_and_white_is_black_and_white() -> None:
    pixels = frames(1)
    pixels[0, :32] = 20
    pixels[0, 32:] = 235
    assert white_shares(pixels, 1).tolist() == [[[0, 0, 0], [1, 1, 1]]]


def test_a_still_mask_holds_for_all_frames() -> None:
    pixels = frames(1)
    pixels[0, :, 32:] = 255
    shares = white_shares(pixels, 25)
    assert shares.shape == (4, 2, 3)
    assert np.array_equal(shares, np.broadcast_to(np.array([0, 1, 1], np.float32), (4, 2, 3)))


def test_the_least_share_is_still_more_than_nothing_as_it_is_stored() -> None:
    import torch

    from ltxcore.store.bf16 import from_bits, to_bits

    pixels = frames(9)
    pixels[8, 63, 95] = 255
    stored = from_bits(to_bits(torch.from_numpy(white_shares(pixels, 9))))
    assert (stored > 0).sum() == 1
