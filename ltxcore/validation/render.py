"""Text to video with sound, through diffusers' own pipeline, from stored text features: no Gemma in here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.text.text_connectors import Caption, connect
from ltxcore.validation.components import Components
from ltxcore.validation.decoding import diffusion_decoded
from ltxcore.validation.given_tokens import Given, giving
from ltxcore.validation.isolation import isolated
from ltxcore.validation.mounted_adapters import MountedAdapters
from ltxcore.validation.rendering_settings import SECOND_STAGE_SIGMAS, Rendering, RenderSettings
from ltxcore.validation.schedule import given_scheduler, reference_scheduler
from ltxcore.validation.upscaling import normalised, upscaled

Progress = Callable[[int, int], None]
"""Called after each denoising step with the steps done and the steps in all."""
StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""The same as diffusers calls it."""


class BrokenRendering(RuntimeError):
    """A rendering that is not a number: the weights are broken, and a black picture would hide it."""


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
        self._given: Given | None = None
        install_cross_modulation(components.transformer)
        components.transformer.register_forward_pre_hook(_without_masks, with_kwargs=True)
        self._pipeline = _pipeline(components, components.video_width)
        self._adapters = MountedAdapters(self._pipeline, components.placement)

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
            ValueError: the guidance needs a negative prompt and there is none, or the plan a model that
                `load_components` was not given.
            BrokenRendering: the model gave NaN or infinity.
        """
        began = time.monotonic()
        plan = plan or self.plan
        guided = plan.is_guided
        if guided and negative is None:
            raise ValueError(f"guidance {plan.shown_guidance()} needs the negative prompt's features")
        seed = plan.seed_of(name)
        # Drawn on the CPU and then moved: the same noise on every device.
        generator = torch.Generator("cpu").manual_seed(seed)
        tell = None if progress is None else _step_callback(progress, plan.all_steps)
        self._adapters.use_in_stage(1)
        with nullcontext() if plan.modality == "both" else isolated(self._components.transformer):
            if plan.upscale == 1:
                video, audio = self._sample(plan, features, negative, generator, tell, self._given)
            else:
                video, audio = self._in_two_stages(plan, features, negative, generator, tell)
        if plan.decoder == "diffusion":
            video, audio = self._decoded(video, audio, seed)
        return Rendering(
            name=name,
            frames=_frames(video[0][:0] if plan.modality == "audio" else video[0], name),
            audio=_sound(audio[0][:, :0] if plan.modality == "video" else audio[0], name),
            fps=plan.fps,
            sample_rate=self._components.vocoder.config.output_sampling_rate,
            seed=seed,
            render_s=time.monotonic() - began,
        )

    def adapter(
        self, *files: Path | tuple[Path, float], second: tuple[Path, float] | None = None
    ) -> AbstractContextManager[None]:
        """Put LoRA files on the model, each at strength 1 or its own, and take them off without a trace.

        Args:
            files: on in all stages.
            second: on in the second stage alone: a LoRA that makes the weights distilled ones.

        Raises:
            FileNotFoundError: there is no such file.
            AdapterError: a file does not fit the model.
            RuntimeError: another adapter is on the model.
        """
        return self._adapters.mounted(files, second)

    @contextmanager
    def giving(self, given: Given | None) -> Iterator[None]:
        """Give every rendering inside the block these parts; None gives nothing."""
        self._given = given
        try:
            yield
        finally:
            self._given = None

    @property
    def vae(self) -> Any:
        """The video VAE, for what a rendering is given."""
        return self._components.vae

    def _sample(
        self,
        plan: RenderSettings,
        features: Caption,
        negative: Caption | None,
        generator: torch.Generator,
        tell: StepCallback | None,
        given: Given | None,
        **more: Any,
    ) -> tuple[Any, Any]:
        """Pictures and sound of one stage, as the pipeline gives them."""
        self._pipeline.scheduler = reference_scheduler() if plan.sigmas is None else given_scheduler()
        with nullcontext() if given is None else giving(self._pipeline, given):
            video, audio = self._pipeline(
                **self._text(features, negative if plan.is_guided else None),
                **{**self._sampling(plan), **more},
                generator=generator,
                callback_on_step_end=tell,
            )
        return video, audio

    def _in_two_stages(
        self,
        plan: RenderSettings,
        features: Caption,
        negative: Caption | None,
        generator: torch.Generator,
        tell: StepCallback | None,
    ) -> tuple[Any, Any]:
        """Pictures that were upscaled as latents and refined by the second stage, and its sound."""
        parts = self._components
        if parts.upsampler is None:
            raise ValueError(
                "a rendering in two stages needs the latent upsampler; give it to load_components"
            )
        small, sound = self._sample(
            plan, features, negative, generator, tell, self._given, output_type="latent"
        )
        latents = upscaled(parts.upsampler, parts.vae, small)
        given = self._given
        if given is not None:
            given = given.upscaled(normalised(parts.vae, latents), plan.upscale)
        self._adapters.use_in_stage(2)
        second = plan.second_stage(distilled=self._adapters.has_second or not plan.is_guided)
        begun = {"latents": latents, "audio_latents": sound, "noise_scale": SECOND_STAGE_SIGMAS[0]}
        return self._sample(second, features, negative, generator, tell, given, **begun)

    def _decoded(self, latents: torch.Tensor, sound: torch.Tensor, seed: int) -> tuple[Any, Any]:
        """Pictures by the diffusion decoder, and the sound as the pipeline decodes it."""
        parts = self._components
        if parts.diffusion_decoder is None:
            raise ValueError("decoder: diffusion needs the diffusion decoder; give it to load_components")
        with torch.no_grad():
            spectrogram = parts.audio_vae.decode(sound.to(parts.audio_vae.dtype), return_dict=False)[0]
            return diffusion_decoded(parts.diffusion_decoder, latents, seed), parts.vocoder(spectrogram)

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
            "output_type": "latent" if plan.decoder == "diffusion" else "pt",
            "return_dict": False,
        }


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


def _step_callback(progress: Progress, steps: int) -> StepCallback:
    done = 0

    def tell(pipeline: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        progress(done, steps)
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
