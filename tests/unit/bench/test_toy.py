"""How the toy is trained: a stopped training ends with the same weights; Muon's steps are orthogonal."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.toy import fitting
from bench.toy.muon import orthogonal
from bench.toy.sound_models import PITCHES, tones
from bench.toy.text_encoder import SPECIALS, write_text_encoder
from ltxcore.config.model_settings import TOY_MODEL, ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files import locate_weights
from ltxcore.models.files.source import check_model
from tests.rounding import bound


def train(file: Path, stop_at: int | None = None) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
    for number, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))

    def losses(step: int) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return {"error": (model(x) - x.sum(1, keepdim=True)).square().mean()}

    fitting.fit(model, losses, 60, 0.3, file, warmup=5)
    return model


def test_a_stopped_training_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "SAVE_EVERY", 20)
    whole = train(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped.safetensors", stop_at=47)
    continued = train(tmp_path / "stopped.safetensors")
    for one, other in zip(whole.parameters(), continued.parameters(), strict=True):
        assert torch.equal(one, other)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(9))
    assert (whole(x) - x.sum(1, keepdim=True)).square().mean() < 1, "4 is what answering 0 would cost"


@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (16, 16)])
def test_an_update_is_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_toy_that_was_not_made_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate_weights, "toy_directory", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"not in .*bench\.toy\.make"):
        check_model(ModelSettings(pretrained_model_name_or_path=TOY_MODEL))


def test_a_tone_is_the_same_at_every_rate() -> None:
    one, other = tones(5, 8, 16_000, 33), tones(5, 8, 24_000, 33)
    # Every third sample of 24 kHz and every second of 16 kHz fall on the same times.
    # The sine of an angle of up to 2 pi times the pitch times the length, itself rounded.
    angle = 2 * math.pi * max(PITCHES) * 33 / 8
    assert (one[..., ::2] - other[..., ::3]).abs().max() < bound(4, angle)
    assert all(pitch % 100 == 0 for pitch in PITCHES)


def test_known_words_are_one_token_and_others_are_bytes(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_text_encoder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert [tokenizer.convert_tokens_to_ids(special) for special in SPECIALS] == [0, 1, 2, 3]
    assert tokenizer.tokenize("A RED circle moves up.") == ["Ġa", "Ġred", "Ġcircle", "Ġmoves", "Ġup", "."]
    assert tokenizer("a glimmer")["input_ids"][0] == 2
    assert tokenizer.tokenize("a glimmer") == ["Ġa", "Ġ", *"glimmer"]
    text = "über the red 圓"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == text
    assert tokenizer("", add_special_tokens=True)["input_ids"] == [2]
