"""Tasks of render-validation."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ltxcore.stages import render_validation as stage
from ltxcore.stages.run import StageRun
from tasks import artifacts
from tasks.stage import within_budget


@task(name="render", cache_policy=NO_CACHE)
def render(session: stage.Session, run: StageRun) -> list[stage.Rendered]:
    """Render every prompt from the base and from the LoRA."""
    run.progress.begin(session.denoising_steps, "denoising steps", "loading")
    return session.render(lambda what: run.progress.advance(1, what))


@task(name="write-gallery", cache_policy=NO_CACHE)
def write_gallery(session: stage.Session, rendered: list[stage.Rendered]) -> None:
    """Write the videos and the page that shows them."""
    session.write(rendered)
    root, step = session.ctx.workspace.root, session.ctx.step
    sheet, page = session.directory / stage.CONTACT_SHEET, session.directory / stage.PAGE
    if step:
        artifacts.picture("samples", sheet, f"Frames of every rendering, base and LoRA, after step {step}")
        artifacts.link(f"samples-step-{step}", page, root, f"Base and LoRA after step {step}")
        return
    artifacts.picture("contact-sheet", sheet, "Frames of every rendering")
    artifacts.link("gallery", page, root, "Base and LoRA side by side")
    artifacts.link("lora", session.lora.file, root, "The LoRA for diffusers")


def render_all(run: StageRun) -> None:
    """The whole stage."""
    from ltxcore.memory.device import pick_device

    with within_budget(run):
        session = stage.Session(run.ctx, run.directory, pick_device(), run.plan)
        if session.prompts:
            write_gallery(session, render(session, run))
        else:
            get_run_logger().info("validation_disable is set: nothing is rendered")
        outcome = session.finish()
    run.finish(outcome)
    session.forget_samples()
