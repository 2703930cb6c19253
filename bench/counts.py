"""What a full-size training step is made of, counted on fake tensors: no GPU, no weights, always the same.

    python -m bench.counts [--width 1280 --height 704 --frames 49 --batch 1 --rank 16]

For each version: kernels and bytes of one block, what it keeps for backward, and the step by the roofline of
an H100 and an H200, with every block recomputed and at the planner's own depth. The last line is the seconds
of 2.0 on an H100 at the planner's depth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from bench.fake_block import BlockCounts, Clip, count_block
from bench.machine import write_table
from ltxcore.memory.planner.cards import CARDS
from ltxcore.memory.planner.training_planner import Budget, Workload
from ltxcore.models.versions import VERSIONS
from ltxcore.pipeline.plan.transformer_plan import released_planner
from ltxcore.training.targets import default_targets

GIB, MIB = 1 << 30, 1 << 20
COUNTED = ("2.0", "2.3")


@dataclass(frozen=True)
class Roof:
    """What a card reaches of its rates, by reference/gpu-step section 1: derived, not measured."""

    gemm_flop_s: float = 620e12
    attention_flop_s: float = 380e12
    attention_backward_flop_s: float = 300e12
    bytes_s: float = 2.7e12

    def step_s(self, block: BlockCounts, blocks: int, recomputed: int) -> float:
        """Seconds of a step whose first `recomputed` blocks are computed anew in backward."""
        forward = block.forward * (blocks + recomputed)
        backward = block.backward * blocks
        products = (forward.gemm_flop + backward.gemm_flop) / self.gemm_flop_s
        attention = forward.attention_flop / self.attention_flop_s
        attention += backward.attention_flop / self.attention_backward_flop_s
        return products + attention + (forward.other_bytes + backward.other_bytes) / self.bytes_s


ROOFS = {"h100": Roof(), "h200": Roof(bytes_s=3.85e12)}


def planned_depth(version: str, card: str, clip: Clip, rank: int) -> int:
    """How many blocks the planner has recomputed on a card, the weights resident in bf16."""
    planner = released_planner(version, CARDS[card], 2)
    workload = Workload(
        clip.width,
        clip.height,
        clip.frames,
        clip.batch,
        clip.fps,
        True,
        clip.text_tokens,
        rank,
        default_targets(True),
    )
    return planner.choose(workload, Budget.of(CARDS[card])).checkpointed


def rows(version: str, clip: Clip, rank: int) -> tuple[list[list[str]], float]:
    """The table's rows of a version, and its seconds on an H100 at the planner's depth."""
    block = count_block(version, clip, rank)
    blocks = int(VERSIONS[version].transformer["num_layers"])
    found = [
        [version, f"kernels, {name}", f"{c.kernels} ({c.products} products, {c.small} under 2 MiB)"]
        for name, c in (("forward", block.forward), ("backward", block.backward))
    ]
    found += [
        [version, f"other bytes, {name}", f"{c.other_bytes / GIB:.2f} GiB"]
        for name, c in (("forward", block.forward), ("backward", block.backward))
    ]
    flop = block.forward.gemm_flop + block.forward.attention_flop
    found.append([version, "arithmetic, forward", f"{flop / 1e12:.2f} TFLOP"])
    found.append([version, "kept for backward", f"{block.kept_bytes / MIB:,.0f} MiB"])
    launches = blocks * (2 * block.forward.kernels + block.backward.kernels)
    found.append([version, "kernels of a step, all recomputed", f"{launches:,}"])
    at_depth = {}
    for card, roof in ROOFS.items():
        depth = planned_depth(version, card, clip, rank)
        at_depth[card] = roof.step_s(block, blocks, depth)
        whole = roof.step_s(block, blocks, blocks)
        label = f"roofline {card.upper()}: all recomputed / {depth} of {blocks}"
        found.append([version, label, f"{whole:.2f} / {at_depth[card]:.2f} s"])
    return found, at_depth["h100"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("width", 1280), ("height", 704), ("frames", 49), ("batch", 1), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    clip = Clip(given.width, given.height, given.frames, given.batch)
    tables = {version: rows(version, clip, given.rank) for version in COUNTED}
    title = (
        f"One block at {clip.width}x{clip.height}, {clip.frames} frames, batch {clip.batch} "
        f"({clip.tokens.video} video tokens), LoRA of rank {given.rank} in float32 over bf16. Counted on "
        "fake tensors under CUDA's rules; seconds are derived, nothing was measured"
    )
    write_table("counts", title, ["version", "what", "count"], [row for t, _ in tables.values() for row in t])
    print(f"{tables['2.0'][1]:.2f}")


if __name__ == "__main__":
    main()
