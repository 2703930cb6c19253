"""Encode one clip, decode its latents and see both side by side: what the VAE keeps of a picture.

python examples/encode_and_decode.py            # writes examples/output/encoded-and-decoded.mp4 and .png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from demo import demo_datasets, output_directory
from PIL import Image

from ltxcore import Job
from ltxcore.media.decode import decode_frames
from ltxcore.models.files.loading import load_video_vae
from ltxcore.models.vae.video_latents import decode_video
from ltxcore.validation.rendering_settings import Rendering
from ltxcore.validation.video_file import write_video

output = output_directory()
job = Job(output / "workspace", demo_datasets(output, "blue-box-up"), "deploy/recipes/toy.yaml")
for stage in ("probe-media", "split-audio", "encode-latents"):
    job.run(stage)

(sample,) = job.samples()
latents = job.latents(sample)["video"]
print(f"{sample.path}: {sample.frames.count} frames are latents {list(latents.shape)}")

vae = load_video_vae(job.ctx.source, torch.float32, "cpu")
decoded = decode_video(vae, latents)
file = Path(job.snapshot.roots[sample.dataset]) / sample.path
original = decode_frames(file, sample.frames, sample.geometry)
print(f"mean difference {np.abs(decoded.astype(int) - original).mean():.1f} of 255")

both = np.concatenate([original, decoded], axis=2)
silence = np.zeros((2, 0), dtype=np.float32)
seen = Rendering("both", both, silence, sample.frames.fps, 48000, seed=0, render_s=0.0)
write_video(output / "encoded-and-decoded.mp4", seen)
Image.fromarray(both[len(both) // 2]).save(output / "encoded-and-decoded.png")
print(f"original and decoded: {output / 'encoded-and-decoded.mp4'}")
