"""Threads: a training step of the toy with one thread and with two, alone and beside one busy process.

    python -m bench.threads [ROUNDS]

Each number of threads has a process of its own, which trains whenever it is its turn; the turns alternate, so
that whatever else the machine does hits both alike. The number printed last is how many times as long a step
takes beside the busy process with two threads as with one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from bench.busy import busy
from bench.machine import describe_machine, write_table

STEPS = 4
"""Of a turn."""


def train() -> None:
    """A process of the bench: for each line of the standard input some steps, and the seconds of one."""
    from pathlib import Path

    import torch

    from ltxcore.config.lora_settings import LoraSettings
    from ltxcore.config.model_settings import ModelSettings
    from ltxcore.models.files.loading import load_transformer
    from ltxcore.models.files.source import resolve_model
    from ltxcore.models.modulation import install_cross_modulation
    from ltxcore.models.predict_velocity import predict_velocity
    from ltxcore.training.lora import add_lora, lora_parameters, target_modules

    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    source = resolve_model(ModelSettings(pretrained_model_name_or_path="toy"), Path())
    transformer = load_transformer(source, torch.float32, "cpu").requires_grad_(False)
    add_lora(transformer, LoraSettings(lora_rank=16), target_modules(transformer, with_audio=True), seed=0)
    install_cross_modulation(transformer)
    optimizer = torch.optim.AdamW(lora_parameters(transformer).values(), lr=1e-4)
    config, text = transformer.config, source.config("connectors")
    widths = [
        text[f"{name}_connector_num_attention_heads"] * text[f"{name}_connector_attention_head_dim"]
        for name in ("video", "audio")
    ]
    sigma = torch.tensor([0.3, 0.7])
    # Two clips of 96x96, 17 frames, with their sound, as `make run` trains.
    batch = {
        "video": torch.randn(2, config.in_channels, 3, 3, 3),
        "audio": torch.randn(2, 27, config.audio_in_channels),
        "video_times": sigma,
        "audio_times": sigma,
        "video_sigma": sigma,
        "audio_sigma": sigma,
        "video_embeds": torch.randn(2, source.text_max_tokens, widths[0]),
        "audio_embeds": torch.randn(2, source.text_max_tokens, widths[1]),
        "fps": 16.0,
    }
    for _ in sys.stdin:
        began = time.monotonic()
        for _ in range(STEPS):
            video, audio = predict_velocity(transformer, **batch)
            assert audio is not None
            (video.square().mean() + audio.square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        print((time.monotonic() - began) / STEPS, flush=True)


class Trainer:
    """A process that trains with so many threads when it is told to."""

    def __init__(self, threads: int) -> None:
        command = [sys.executable, "-m", "bench.threads", "train", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self) -> float:
        """Seconds of a step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    trainers = {threads: Trainer(threads) for threads in (1, 2)}
    for trainer in trainers.values():
        trainer.turn()
    times: dict[tuple[int, int], list[float]] = {}
    for _ in range(rounds):
        for beside in (0, 1):
            with busy(beside):
                for threads, trainer in trainers.items():
                    times.setdefault((threads, beside), []).append(trainer.turn())
    for trainer in trainers.values():
        trainer.end()
    found = {case: statistics.median(values) for case, values in times.items()}
    labels = {0: "nothing", 1: "one busy process"}
    rows = [
        [labels[beside], *(f"{1000 * found[threads, beside]:.0f} ms" for threads in (1, 2)), f"{ratio:.2f}"]
        for beside in (0, 1)
        for ratio in [found[2, beside] / found[1, beside]]
    ]
    title = f"A step of the toy, wall time, medians of {rounds} rounds of {STEPS} steps; {describe_machine()}"
    write_table("threads", title, ["beside", "one thread", "two threads", "ratio"], rows)
    print(f"{found[2, 1] / found[1, 1]:.2f}")


if __name__ == "__main__":
    train() if sys.argv[1:2] == ["train"] else main()
