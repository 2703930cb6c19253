"""Look at a dataset: what becomes of each file, and the page that shows it clip by clip.

python examples/look_at_a_dataset.py            # clips made for it, in examples/output
python examples/look_at_a_dataset.py OUTPUT datasets.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from demo import demo_datasets, output_directory

from ltxcore import Job

output = output_directory()
datasets = Path(sys.argv[2]) if len(sys.argv) > 2 else demo_datasets(output)

job = Job(output / "workspace", datasets, "deploy/recipes/toy.yaml")
job.run("probe-media")

for sample in job.samples():
    width, height = sample.geometry.target
    sound = "with sound" if sample.audio else "silent"
    print(f"{sample.path:32} {sample.frames.count} frames of {width}x{height}, {sound}: {sample.captions[0]}")
for rejection in job.snapshot.rejections:
    print(f"{rejection.path:32} rejected: {rejection.reason}")
print(f"page: {job.report()}")
