"""What is given beside a sample, in tokens of its own: the loss does not reach it, and it is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.config.tread_settings import Span
from ltxcore.models.predict_velocity import Reference, predict_velocity
from ltxcore.training.data import Batch, collate
from ltxcore.training.evaluation import fixed_noise
from ltxcore.training.objective import Losses, NoisedBatch, losses, noise_batch, patchify, unpatchify
from ltxcore.training.tread import TokenRouting
from tests.unit.toy_transformer import make_transformer
from tests.unit.training.test_conditioning import FRAMES, HEIGHT, LENGTH, WIDTH, batch, given, sample

SETTINGS = TrainingSettings(seed=3)
OWN = FRAMES * HEIGHT * WIDTH


class Answer:
    """The loss of a batch by a real transformer, and what that answered token by token."""

    def __init__(self, transformer: Any, clips: Batch, noised: NoisedBatch) -> None:
        self._answers: dict[str, torch.Tensor] = {}
        hooks = [
            getattr(transformer, name).register_forward_hook(self._keep(name))
            for name in ("proj_out", "audio_proj_out")
        ]
        assert noised.audio is not None
        text = torch.Generator().manual_seed(5)
        video, audio = predict_velocity(
            transformer,
            video=unpatchify(noised.video.tokens, like=clips.video),
            audio=noised.audio.tokens,
            video_times=noised.video.times,
            audio_times=noised.audio.times,
            video_sigma=noised.video.sigma,
            audio_sigma=noised.audio.sigma,
            video_embeds=torch.randn(1, 16, 48, generator=text),
            audio_embeds=torch.randn(1, 16, 48, generator=text),
            fps=clips.fps,
            references=noised.references,
            sound_reference=noised.sound_reference,
        )
        for hook in hooks:
            hook.remove()
        self.losses: Losses = losses(patchify(video), audio, noised)

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the loss by what was answered of pictures [N, C] and of sound [L, D]."""
        self.losses.total.backward()
        found = [self._answers[name].grad for name in ("proj_out", "audio_proj_out")]
        video, audio = (grad[0] for grad in found if grad is not None)
        return video, audio

    def _keep(self, name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            output.requires_grad_(True)
            output.retain_grad()
            self._answers[name] = output

        return hook


def referred(*latents: torch.Tensor) -> Batch:
    """A batch of one with references; those of a quarter of the frames are smaller, too."""
    factors = [(2, 4) if one.shape[1] == 1 else (1, 1) for one in latents]
    return batch(references=tuple(Reference(one, *each) for one, each in zip(latents, factors, strict=True)))


def references() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return (
        torch.randn(16, FRAMES, HEIGHT, WIDTH, generator=generator),
        torch.randn(16, 1, 2, 3, generator=generator),
    )


def test_the_gradient_through_several_references_is_exactly_zero() -> None:
    clips = referred(*references())
    noised = noise_batch(clips, SETTINGS, 0, given([{"type": "reference"}]))
    video, audio = Answer(make_transformer(layers=2), clips, noised).gradients()
    assert len(video) == OWN + OWN + 6
    assert torch.equal(video[OWN:], torch.zeros_like(video[OWN:]))
    assert (video[:OWN].abs().amax(1) > 0).all()
    assert (audio.abs().amax(1) > 0).all()


VOICE = torch.randn(10, 8, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("position", ["before", "aligned"])
def test_the_gradient_through_a_voice_is_exactly_zero(position: str) -> None:
    clips = batch(reference_sound=VOICE)
    asked = given(audio=[{"type": "reference", "position": position}])
    noised = noise_batch(clips, SETTINGS, 0, asked)
    video, audio = Answer(make_transformer(layers=2), clips, noised).gradients()
    assert len(audio) == LENGTH + 10
    assert torch.equal(audio[LENGTH:], torch.zeros_like(audio[LENGTH:]))
    assert (audio[:LENGTH].abs().amax(1) > 0).all()
    assert (video.abs().amax(1) > 0).all()


def test_a_voice_is_heard_and_so_is_its_place_in_time() -> None:
    clips = batch(reference_sound=VOICE)
    noised = noise_batch(clips, SETTINGS, 0, given(audio=[{"type": "reference"}]))
    voice = noised.sound_reference
    assert voice is not None
    changes = {"voice": {"latents": voice.latents.flip(-1)}, "time": {"before": False}}
    transformer = make_transformer(layers=2)
    with torch.no_grad():
        before = Answer(transformer, clips, noised).losses.audio
        for name, change in changes.items():
            other = replace(noised, sound_reference=replace(voice, **change))
            found = Answer(transformer, clips, other).losses.audio
            assert before is not None
            assert found is not None
            assert abs(float(before) - float(found)) > 1e-6, name


def test_a_voice_is_drawn_for_a_whole_batch_together_with_references_of_the_pictures() -> None:
    clips = batch(2, reference_sound=VOICE, references=(Reference(torch.randn(16, 1, 3, 5)),))
    both = [{"type": "reference", "probability": 0.4}]
    found = [noise_batch(clips, SETTINGS, number, given(both, both)) for number in range(300)]
    assert sum(n.sound_reference is not None for n in found) / 300 == pytest.approx(0.4, abs=0.08)
    assert all((n.sound_reference is not None) is bool(n.references) for n in found)
    assert noise_batch(clips, SETTINGS, 0).sound_reference is None, "no condition asks for it"
    held_out = fixed_noise(batch(reference_sound=VOICE), 0.5, 1, "x", given(audio=both))
    assert held_out.sound_reference is not None
    with pytest.raises(ValueError, match="reference sounds"):
        collate(["a", "b"], [sample(reference_sound=VOICE), sample(reference_sound=VOICE[:5])])


def framed(*frames: int) -> Batch:
    """A batch of one with its keyframes."""
    pictures = (torch.randn(16, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(n)) for n in frames)
    return batch(keyframes=tuple(Reference(p, frame=n) for p, n in zip(pictures, frames, strict=True)))


def test_the_gradient_through_keyframes_is_exactly_zero() -> None:
    """Frame 0 is given in its place, and any other beside the video."""
    clips = framed(12, 24)
    noised = noise_batch(clips, SETTINGS, 0, given([{"type": "keyframes", "at": [0, 12, -1]}]))
    video, audio = Answer(make_transformer(layers=2), clips, noised).gradients()
    first = HEIGHT * WIDTH
    assert len(video) == OWN + 2 * first
    for held in (video[:first], video[OWN:]):
        assert torch.equal(held, torch.zeros_like(held))
    assert (video[first:OWN].abs().amax(1) > 0).all()
    assert (audio.abs().amax(1) > 0).all()


def test_a_keyframe_is_seen_and_so_is_its_place_in_time() -> None:
    clips = framed(12)
    noised = noise_batch(clips, SETTINGS, 0, given([{"type": "keyframes", "at": 12}]))
    (keyframe,) = noised.references
    transformer = make_transformer(layers=2)
    changes = {"picture": {"latents": keyframe.latents.flip(-1)}, "time": {"frame": 20}}
    with torch.no_grad():
        before = float(Answer(transformer, clips, noised).losses.total)
        for name, change in changes.items():
            other = replace(noised, references=(replace(keyframe, **change),))
            assert abs(before - float(Answer(transformer, clips, other).losses.total)) > 1e-6, name


def test_keyframes_are_drawn_for_a_whole_batch_with_the_first_frame_among_them() -> None:
    clips = batch(2, keyframes=framed(24).keyframes[0:0])
    clips = replace(clips, keyframes=(Reference(torch.randn(2, 16, 1, HEIGHT, WIDTH), frame=24),))
    asked = given([{"type": "keyframes", "at": [0, 24], "probability": 0.4}])
    found = [noise_batch(clips, SETTINGS, number, asked) for number in range(400)]
    drawn = [noised for noised in found if noised.references]
    assert len(drawn) / 400 == pytest.approx(0.4, abs=0.07)
    for noised in found:
        assert (noised.video.clean is not None) is bool(noised.references)
    assert all(n.video.clean is not None and n.video.clean[:, : HEIGHT * WIDTH].all() for n in drawn)


@pytest.mark.parametrize("changed", [0, 1])
def test_each_of_several_references_is_seen(changed: int) -> None:
    clips = referred(*references())
    noised = noise_batch(clips, SETTINGS, 0, given([{"type": "reference"}]))
    others = list(noised.references)
    others[changed] = replace(others[changed], latents=others[changed].latents.flip(-1))
    swapped = replace(noised, references=tuple(others))
    transformer = make_transformer(layers=2)
    with torch.no_grad():
        losses_of = [float(Answer(transformer, clips, n).losses.total) for n in (noised, swapped)]
    assert abs(losses_of[0] - losses_of[1]) > 1e-5


def test_what_is_beside_takes_no_route_of_tread() -> None:
    picture = torch.randn(16, 1, HEIGHT, WIDTH)
    clips = batch(
        references=(Reference(picture),),
        keyframes=(Reference(picture, frame=24),),
        reference_sound=VOICE,
    )
    pictures = [{"type": "reference"}, {"type": "keyframes", "at": [0, -1]}]
    noised = noise_batch(clips, SETTINGS, 0, given(pictures, [{"type": "reference"}]))
    transformer, first = make_transformer(layers=4), HEIGHT * WIDTH
    routing = TokenRouting(transformer, [Span(start=1, end=2, ratio=0.5)], seed=3)
    with routing.batch(0):
        video, audio = Answer(transformer, clips, noised).gradients()
        kept = routing.kept(0)
    assert kept is not None
    held = {*range(first), *range(OWN, OWN + 2 * first)}
    assert held <= set(kept[0].tolist())
    assert kept.shape[1] < len(video) == OWN + 2 * first
    for part in (video[:first], video[OWN:], audio[LENGTH:]):
        assert not part.any()
