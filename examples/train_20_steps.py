"""Train the toy for 20 steps on two clips and plot the loss.

python examples/train_20_steps.py               # writes examples/output/loss.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
from demo import demo_datasets, output_directory

from ltxcore import Job
from ltxcore.config.recipe import load_recipe

matplotlib.use("Agg")
from matplotlib import pyplot as plt

output = output_directory()
recipe = load_recipe(Path("deploy/recipes/toy.yaml"))
training = recipe.training.model_copy(
    update={"max_train_steps": 20, "lr_warmup_steps": 2, "checkpoint_step_interval": 10}
)
recipe = recipe.model_copy(update={"training": training})

job = Job(output / "workspace", demo_datasets(output, "blue-box-up", "red-disc-right"), recipe)
for stage in ("probe-media", "split-audio", "encode-latents", "embed-text", "train-lora"):
    stamp = job.run(stage)
    print(f"{stage:14} {stamp.outcome.counts}")

losses = job.losses()
plt.plot([metrics.step for metrics in losses], [metrics.loss for metrics in losses])
plt.xlabel("step")
plt.ylabel("loss")
plt.savefig(output / "loss.png")
print(f"loss {losses[0].loss:.3f} -> {losses[-1].loss:.3f}: {output / 'loss.png'}")
for file in job.loras():
    print(f"LoRA: {file}")
