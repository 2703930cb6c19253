"""A finished run in a workspace, as the stages leave it, made without training: to be published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ltxcore.config.recipe import Recipe
from ltxcore.pipeline.base.contract import PROBE, RENDER, TRAIN, Stage
from ltxcore.pipeline.base.stamp import (
    ManifestEntry,
    Outcome,
    output_file,
    stage_directory,
    write_manifest,
    write_stamp,
)
from ltxcore.stages.train_lora.lora_sides import shown_sides
from ltxcore.store.blobs import write_json
from ltxcore.store.workspace import Workspace
from tests.unit.stages.test_snapshot_changes import sample, snapshot

RUN = "20260102-030405-abcd"
CLIP, CAPTION = "grandmother-at-home", "My grandmother waves from her garden in Elm Street."
PROMPTS = {"sea": "A <sks> sea | at night.", "wood": "A sks wood."}
HUB = {"push_to_hub": True, "hub_model_id": "my-lora"}


class FinishedRun:
    """A workspace with one run, whose recipe and training can be changed."""

    def __init__(self, root: Path, **recipe: Any) -> None:
        self.workspace = Workspace(root / "workspace")
        given = {"hub": HUB, "validation": {"validation_prompts": PROMPTS}, "lora": {"trigger": "sks"}}
        self.recipe = Recipe.model_validate({**given, **recipe})
        self.run = self.workspace.run(RUN)
        self.snapshot = snapshot([sample(f"{CLIP}.mp4", captions=(CAPTION,))])
        self.workspace.save_snapshot(self.snapshot)
        (root / "datasets.yaml").write_text("[]")
        self._note(PROBE, Outcome(facts={"snapshot": self.snapshot.id}))
        self.train()
        self.render()
        request = {"datasets": str(root / "datasets.yaml"), "recipe": self.recipe.fingerprint_data()}
        write_json(self.run / "run.json", {**request, "workspace": str(self.workspace.root)})
        write_json(self.workspace.runs / "newest.json", {"run": RUN})
        write_json(self.run / "parent.json", {"process": 1})

    def train(self, value: float = 1.0, averaged: bool = False, **facts: Any) -> None:
        """Leave a LoRA whose weights all have this value."""
        directory = self._directory(TRAIN)
        names = ["pytorch_lora_weights", "ltx2_lora_comfyui"]
        names += ["pytorch_lora_weights_ema", "ltx2_lora_ema_comfyui"] if averaged else []
        (directory / "lora").mkdir(parents=True, exist_ok=True)
        files = [directory / "lora" / f"{name}.safetensors" for name in names]
        header = {"trigger": "sks", "recipe": self.recipe.model_dump_json(), "home": ""}
        for file in files:
            save_file({file.stem: torch.full((9, 7), value)}, file, metadata=header)
        noted = {"directory": self.workspace.relative(directory), **facts}
        outputs = tuple(output_file(self.workspace, file) for file in files)
        self._note(TRAIN, Outcome(counts={"steps": 400}, facts=noted, files=outputs))

    def render(self) -> None:
        """Leave the renderings of the recipe's prompts, or of the clips' captions."""
        directory = self._directory(RENDER)
        prompts = self.recipe.validation.validation_prompts or {CLIP: CAPTION}
        directory.mkdir(parents=True, exist_ok=True)
        sides = ("base", *(kind for kind, _ in shown_sides(self.recipe.training).items()))
        contents = {f"{n}-{side}.mp4": f"video of {n} {side}" for n in prompts for side in sides}
        contents["contact-sheet.png"] = "a picture"
        for name, content in contents.items():
            (directory / name).write_bytes(content.encode())
        files = tuple(output_file(self.workspace, directory / name) for name in contents)
        self._note(RENDER, Outcome(facts={"prompts": prompts}, files=files))

    def _directory(self, stage: Stage) -> Path:
        return stage_directory(self.workspace, stage, {"of": RUN})

    def _note(self, stage: Stage, outcome: Outcome) -> None:
        write_stamp(self.workspace, stage, {"of": RUN}, outcome, time.time(), 1)
        stamp = self.workspace.relative(self._directory(stage) / "stage.json")
        entry = ManifestEntry(
            stage=stage.name, stamp=stamp, up_to_date=False, seconds=1, process=1, counts={}, why="first run"
        )
        write_manifest(self.run, entry)
