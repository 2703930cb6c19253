"""Orders of a caption's tags, and how often each caption is drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ltxcore.config.base import parse
from ltxcore.config.caption_shuffle_settings import CaptionShuffle
from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.config.errors import ConfigError
from ltxcore.config.simpletuner.datasets import translate_datasets
from ltxcore.media.caption_variants import caption_variants
from ltxcore.training.batch_entry import Entry
from ltxcore.training.batch_schedule import schedule_epoch

CAPTION = "dog, running, park, sunny day"
DRAWS = 10_000


def shuffle(**keys: Any) -> CaptionShuffle:
    return CaptionShuffle(enable=True, **keys)


def test_orders_keep_the_first_tags_and_all_the_others() -> None:
    texts, weights = caption_variants([CAPTION], shuffle(count=3, position_start=1), ())
    assert texts[0] == CAPTION
    assert len(set(texts)) == 4
    assert weights == ()
    for text in texts:
        assert text.split(", ")[0] == "dog"
        assert sorted(text.split(", ")) == sorted(CAPTION.split(", "))


def test_orders_belong_to_seed_and_caption_alone() -> None:
    def orders(caption: str, **keys: Any) -> tuple[str, ...]:
        return caption_variants([caption], shuffle(count=2, **keys), ()).texts

    assert orders(CAPTION) == orders(CAPTION)
    assert orders(CAPTION, seed=1) != orders(CAPTION, seed=2)
    both = caption_variants(["a, b, c", CAPTION], shuffle(count=2), ()).texts
    assert both[3:] == orders(CAPTION), "another line changes nothing of this one"


def test_a_caption_of_few_tags_has_few_orders() -> None:
    assert caption_variants(["a, b"], shuffle(count=9), ()).texts == ("a, b", "b, a")
    assert caption_variants(["a"], shuffle(count=9, include_original=False), ()).texts == ("a",)
    assert caption_variants(["a, b, c"], shuffle(count=2, position_start=2), ()).texts == ("a, b, c",)
    without = caption_variants(["a, b"], shuffle(count=1, include_original=False), ()).texts
    assert without == ("b, a",)
    assert caption_variants(["a, b"], CaptionShuffle(count=3), ()).texts == ("a, b",), "it is off"


@pytest.mark.parametrize(
    ("split_on", "caption", "other"),
    [("space", "red ball", "ball red"), ("period", "It rains. A dog runs.", "A dog runs. It rains.")],
)
def test_what_is_between_tags(split_on: str, caption: str, other: str) -> None:
    texts, _ = caption_variants([caption], shuffle(split_on=split_on, count=1), ())
    assert texts == (caption, other)


def drawn(weights: tuple[float, ...], captions: int) -> Counter[int]:
    """Captions of so many visits, drawn as a training draws them."""
    entry = Entry("clips/a.mp4", "64x64@17", 25.0, False, captions, visits=DRAWS, caption_weights=weights)
    batches = schedule_epoch([entry], seed=7, epoch=0, batch_size=1, caption_dropout=0.0, by_bucket=False)
    return Counter(visit.caption for (visit,) in batches if visit.caption is not None)


@pytest.mark.parametrize("weights", [(), (3.0, 1.0), (0.2,), (5.0, 3.0, 1.0)])
@pytest.mark.parametrize("settings", [None, {"count": 2, "position_start": 1}])
def test_captions_are_drawn_as_often_as_they_weigh(
    weights: tuple[float, ...], settings: dict[str, Any] | None
) -> None:
    captions = [CAPTION, "cat, sleeping, sofa, night", "a caption without tags"]
    orders = None if settings is None else shuffle(**settings)
    texts, shares = caption_variants(captions, orders, weights)
    counts = drawn(shares, len(texts))
    given = [*weights, 1.0, 1.0, 1.0][:3]
    sizes = [1, 1, 1] if settings is None else [3, 3, 1]
    assert len(texts) == sum(sizes)
    expected = [w / sum(given) / size for w, size in zip(given, sizes, strict=True) for _ in range(size)]
    for number, share in enumerate(expected):
        spread = 3 * (DRAWS * share * (1 - share)) ** 0.5
        assert counts[number] == pytest.approx(DRAWS * share, abs=spread), (number, counts)


def test_equal_weights_draw_as_none_at_all() -> None:
    assert caption_variants(["a", "b"], None, (2.0, 2.0)).weights == ()


def test_weights_without_lines_to_weigh_are_refused() -> None:
    entry = {"id": "clips", "dataset_type": "video", "instance_data_dir": "clips", "caption_weights": [1, 2]}
    parse(VideoDataset, entry, "datasets.yaml")
    for more in ({"caption_strategy": "filename"}, {"disable_multiline_split": True}):
        with pytest.raises(ConfigError, match="each has one alone here"):
            parse(VideoDataset, {**entry, **more}, "datasets.yaml")
    with pytest.raises(ConfigError, match="caption_weights"):
        parse(VideoDataset, {**entry, "caption_weights": [0]}, "datasets.yaml")


def test_the_block_of_simpletuner_is_taken_key_by_key() -> None:
    block = {
        "enable": True, "count": 3, "seed": 42, "split_on": "comma", "position_start": 1,
        "include_original": True,
    }  # fmt: skip
    entry = {"id": "clips", "dataset_type": "video", "instance_data_dir": "clips", "caption_shuffle": block}
    found = translate_datasets([entry], Path("multidatabackend.json"))
    assert found.data[0]["caption_shuffle"] == block
    wrong = translate_datasets([{**entry, "caption_shuffle": {"amount": 3}}], Path("multidatabackend.json"))
    with pytest.raises(ConfigError, match=r"caption_shuffle\.amount"):
        wrong.check()
