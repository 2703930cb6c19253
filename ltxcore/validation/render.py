"""Text to video with sound, through diffusers' own pipeline, from stored text features: no Gemma in here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.placement import Placement
from ltxcore.models.files.loading import (
    load_audio_vae,
    load_connectors,
    load_transformer,
    load_video_vae,
    load_vocoder,
)
from ltxcore.models.files.source import ModelSource
from ltxcore.models.lora.fitting import require_names
from ltxcore.models.lora.header import AdapterError
from ltxcore.models.lycoris import is_lycoris, load_lycoris
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.text.text_connectors import Caption, PrecomputedConnectors, connect
from ltxcore.models.version import Version
from ltxcore.validation.given_tokens import Given, giving
from ltxcore.validation.isolation import isolated
from ltxcore.validation.rendering_settings import Rendering, RenderSettings
from ltxcore.validation.schedule import given_scheduler, reference_scheduler

ADAPTER = "lora"

Progress = Callable[[int, int], None]
"""Called after each denoising step with the steps done and the steps in all."""


class BrokenRendering(RuntimeError):
    """A rendering that is not a number: the weights are broken, and a black picture would hide it."""


@dataclass(frozen=True)
class Components:
    """The models that a rendering runs, frozen, on one device but for what is streamed."""

    transformer: Any
    placement: Placement
    """What holds the transformer."""
    connectors: Any
    """`LTX2TextConnectors`, or what stands in their place for captions that went through them already."""
    video_width: int
    """Dv, the width of the video connector's output."""
    vae: Any
    audio_vae: Any
    vocoder: Any
    max_tokens: int
    """Slots of the text: `ModelSource.text_max_tokens`."""
    stg_block: int
    """The block that STG perturbs where the plan names none."""


def load_components(
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device | str,
    arrangement: Arrangement | None = None,
    connectors: PrecomputedConnectors | None = None,
) -> Components:
    """Load all that a rendering needs, which is all of the model but its text encoder.

    Args:
        arrangement: where the transformer's weights shall be. None: all of them on the device.
        connectors: stands in their place where all captions went through them already; they are not loaded.

    Raises:
        ModelError: a component is missing or incomplete.
        PinningFailed, NotOffloadable: the arrangement is not possible here.
    """
    arrangement = arrangement or Arrangement()
    # What is resident goes straight to the device; what is streamed never is there as a whole.
    first = device if arrangement.strategy == "resident" else "cpu"
    transformer = load_transformer(source, dtype, first)
    text = source.config("connectors")
    return Components(
        transformer=transformer,
        placement=Placement(transformer, arrangement, device),
        connectors=connectors or load_connectors(source, dtype, device),
        video_width=text["video_connector_num_attention_heads"] * text["video_connector_attention_head_dim"],
        vae=load_video_vae(source, dtype, device),
        audio_vae=load_audio_vae(source, dtype, device),
        vocoder=load_vocoder(source, dtype, device),
        max_tokens=source.text_max_tokens,
        stg_block=usual_stg_block(source.version, transformer.config.num_layers),
    )


class ConnectedText:
    """Stands where the pipeline has its connectors, for text that went through them already.

    The pipeline hands its connectors one tensor of text, so both modalities' embeddings travel in it side by
    side, `[B, T, Dv + Da]`, and are taken apart here. Registers fill the padding: every slot is valid.
    """

    def __init__(self, video_width: int) -> None:
        self._video_width = video_width

    def __call__(
        self, text: torch.Tensor, attention_mask: torch.Tensor, padding_side: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings `[B, T, Dv]` and `[B, T, Da]`, and the mask, which the pipeline cuts up for guidance."""
        return text[..., : self._video_width], text[..., self._video_width :], attention_mask


class Renderer:
    """Renders prompts from one loaded model: the base, and inside `with renderer.adapter(file)` the LoRA.

    Noise comes from the plan's seed and the prompt's name alone, so base and LoRA start from the same.
    Guidance is the recipe's: by the negative prompt, by perturbed self-attention (STG), and by the modalities
    without each other.
    """

    def __init__(self, components: Components, plan: RenderSettings) -> None:
        self.plan = plan
        self._components = components
        self._adapted = False
        install_cross_modulation(components.transformer)
        components.transformer.register_forward_pre_hook(_without_masks, with_kwargs=True)
        self._pipeline = _pipeline(components, components.video_width)

    def render(
        self,
        name: str,
        features: Caption,
        negative: Caption | None = None,
        progress: Progress | None = None,
        plan: RenderSettings | None = None,
    ) -> Rendering:
        """Render one prompt.

        Args:
            name: the prompt's short name; decides the noise.
            features: the stored features of the prompt, or what the connectors made of them.
            plan: of this rendering; None: the renderer's.
            negative: those of the negative prompt; needed where the guidance is above 1.

        Raises:
            ValueError: the guidance needs a negative prompt and there is none.
            BrokenRendering: the model gave NaN or infinity.
        """
        began = time.monotonic()
        plan = plan or self.plan
        guided = plan.is_guided
        if guided and negative is None:
            raise ValueError(f"guidance {plan.shown_guidance()} needs the negative prompt's features")
        seed = plan.seed_of(name)
        self._pipeline.scheduler = reference_scheduler() if plan.sigmas is None else given_scheduler()
        with nullcontext() if plan.modality == "both" else isolated(self._components.transformer):
            video, audio = self._pipeline(
                **self._text(features, negative if guided else None),
                **self._sampling(plan),
                # Drawn on the CPU and then moved: the same noise on every device.
                generator=torch.Generator("cpu").manual_seed(seed),
                callback_on_step_end=None if progress is None else _step_callback(progress, plan.steps),
            )
        return Rendering(
            name=name,
            frames=_frames(video[0][:0] if plan.modality == "audio" else video[0], name),
            audio=_sound(audio[0][:, :0] if plan.modality == "video" else audio[0], name),
            fps=plan.fps,
            sample_rate=self._components.vocoder.config.output_sampling_rate,
            seed=seed,
            render_s=time.monotonic() - began,
        )

    @contextmanager
    def adapter(self, *files: Path | tuple[Path, float]) -> Iterator[None]:
        """Put LoRA files on the model, each at strength 1 or its own, and take them off without a trace.

        Raises:
            FileNotFoundError: there is no such file.
            AdapterError: a file does not fit the model.
            RuntimeError: another adapter is on the model.
        """
        wanted = [file if isinstance(file, tuple) else (file, 1.0) for file in files]
        for file, _ in wanted:
            if not file.is_file():
                raise FileNotFoundError(f"there is no LoRA file {file}; the stage train-lora writes it")
        if self._adapted:
            raise RuntimeError("an adapter is on the model already; leave its `with` first")
        self._adapted = True
        try:
            for number, (file, _) in enumerate(wanted):
                self._load(file, f"{ADAPTER}{number}")
            if len(wanted) > 1 or any(strength != 1 for _, strength in wanted):
                names = [f"{ADAPTER}{number}" for number in range(len(wanted))]
                self._pipeline.set_adapters(names, [strength for _, strength in wanted])
            yield
        finally:
            self._pipeline.unload_lora_weights()
            self._adapted = False

    def giving(self, given: Given | None) -> AbstractContextManager[None]:
        """Give every rendering inside the block these parts; None gives nothing."""
        return nullcontext() if given is None else giving(self._pipeline, given)

    @property
    def vae(self) -> Any:
        """The video VAE, for what a rendering is given."""
        return self._components.vae

    def _load(self, file: Path, name: str) -> None:
        names = _check_keys(file)
        try:
            if is_lycoris(names):
                # diffusers' pipeline takes LoRAs alone.
                load_lycoris(self._components.transformer, _own_names(file), name)
                return
            self._pipeline.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=name,
                local_files_only=True,
                use_safetensors=True,
            )
        except (ValueError, RuntimeError, KeyError) as error:
            raise AdapterError(f"{file} does not fit the model: {error}") from error
        # It was made where the weights are that it goes beside.
        named = self._components.transformer.named_parameters()
        self._components.placement.hold_adapter(p for key, p in named if ".lora_" in key)

    def _text(self, features: Caption, negative: Caption | None) -> dict[str, Any]:
        """The pipeline's arguments for text that is embedded already."""
        text = self._embedded(features)
        valid = torch.ones(text.shape[:2], dtype=torch.int64, device=text.device)
        arguments: dict[str, Any] = {"prompt_embeds": text, "prompt_attention_mask": valid}
        if negative is not None:
            arguments |= {
                "negative_prompt_embeds": self._embedded(negative),
                "negative_prompt_attention_mask": valid,
            }
        return arguments

    def _embedded(self, features: Caption) -> torch.Tensor:
        """`[1, T, Dv + Da]`."""
        both = connect(self._components.connectors, [features], self._components.max_tokens)
        return torch.cat(both, dim=-1)

    def _stg_blocks(self, asked: Sequence[int] | None) -> list[int]:
        """The blocks whose self-attention STG leaves out.

        Raises:
            ValueError: a block is past the last one.
        """
        if asked is None:
            return [self._components.stg_block]
        blocks = self._components.transformer.config.num_layers
        beyond = [block for block in asked if block >= blocks]
        if beyond:
            raise ValueError(
                f"validation_stg_blocks names block {beyond[0]}, and the transformer has {blocks}; "
                f"write blocks from 0 to {blocks - 1}"
            )
        return list(asked)

    def _sampling(self, plan: RenderSettings) -> dict[str, Any]:
        """Size, schedule and guidance.

        The pipeline reads a sound's 0.0 as "the video's value", so each scale that may be 0 is the same for
        both.
        """
        return {
            "width": plan.width,
            "height": plan.height,
            "num_frames": plan.num_frames,
            "frame_rate": plan.fps,
            "num_inference_steps": plan.steps,
            "sigmas": None if plan.sigmas is None else list(plan.sigmas),
            "guidance_scale": plan.guidance,
            "audio_guidance_scale": plan.audio_guidance,
            "stg_scale": plan.stg_scale,
            "audio_stg_scale": plan.stg_scale,
            "modality_scale": plan.modality_scale,
            "audio_modality_scale": plan.modality_scale,
            "guidance_rescale": plan.rescale,
            "audio_guidance_rescale": plan.rescale,
            "spatio_temporal_guidance_blocks": (
                self._stg_blocks(plan.stg_blocks) if plan.stg_scale else None
            ),
            "use_cross_timestep": True,
            "output_type": "pt",
            "return_dict": False,
        }


def usual_stg_block(version: Version, layers: int) -> int:
    """The block that the reference perturbs; a model of another depth has its own at the same share of it."""
    released: int = version.transformer["num_layers"]
    return version.stg_block * layers // released


def _without_masks(
    transformer: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Masks that let everything through only keep attention from its fast kernels."""
    return arguments, {**named, "encoder_attention_mask": None, "audio_encoder_attention_mask": None}


def _pipeline(components: Components, video_width: int) -> Any:
    from diffusers import LTX2Pipeline

    pipeline = LTX2Pipeline(
        scheduler=reference_scheduler(),
        vae=components.vae,
        audio_vae=components.audio_vae,
        text_encoder=None,
        tokenizer=None,
        connectors=ConnectedText(video_width),
        transformer=components.transformer,
        vocoder=components.vocoder,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _own_names(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}


def _check_keys(file: Path) -> list[str]:
    """Refuse what diffusers would take without a word and not apply; the names of what is there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
    except SafetensorError as error:
        raise AdapterError(f"{file} is no safetensors file: {error}") from error
    return require_names(file, names)


def _step_callback(
    progress: Progress, steps: int
) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    def tell(pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        progress(step + 1, steps)
        return tensors

    return tell


def _frames(video: torch.Tensor, name: str) -> np.ndarray:
    """uint8 `[F, H, W, 3]` of the pipeline's `[F, 3, H, W]` in [0, 1]."""
    _finite(video, name, "picture")
    return (video.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _sound(audio: torch.Tensor, name: str) -> np.ndarray:
    """float32 `[2, N]`."""
    _finite(audio, name, "sound")
    return audio.float().cpu().numpy()


def _finite(values: torch.Tensor, name: str, what: str) -> None:
    if not torch.isfinite(values).all():
        raise BrokenRendering(
            f"the {what} of {name!r} holds NaN or infinity: the weights are broken; "
            "look at the training's loss"
        )
