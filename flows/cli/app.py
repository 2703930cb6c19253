"""The command line `ltx2`. Every command's line in `--help` is in this file."""

from __future__ import annotations

from typing import Final

import typer

from flows.cli.lazy import Entry, group_of

RUN, LOOK, STORE, SHARE = "Run", "Inspect", "Store", "Share"
COMMANDS: Final = (
    Entry("run", "flows.cli.run:run", "Run the whole pipeline here; needs no server or worker.", RUN),
    Entry("stage", "flows.cli.run:stage", "Run one stage alone.", RUN),
    Entry(
        "serve", "flows.cli.serve:serve", "Start Prefect, MLflow and the workers, and deploy every flow.", RUN
    ),
    Entry("control", "flows.cli.control:app", "Save, sample, or stop and keep a training that goes on.", RUN),
    Entry("sign-in", "flows.cli.serve:sign_in", "Print a link that signs one more browser in.", RUN),
    Entry("init", "flows.cli.init:init", "Write a dataset file and a recipe for your clips and card.", RUN),
    Entry("notify", "flows.cli.notify:notify", "Send a message when a run completes or fails.", RUN),
    Entry("samples", "flows.cli.samples:samples", "Make the sample clips.", RUN),
    Entry("validate", "flows.cli.validate:validate", "Check datasets and recipe, and estimate a run.", LOOK),
    Entry(
        "plan", "flows.cli.plan:plan", "Predict memory and time of a training, here and on named cards.", LOOK
    ),
    Entry("presets", "flows.cli.presets:presets", "List the presets that a recipe can extend.", LOOK),
    Entry("keys", "flows.cli.keys:keys", "List every key of a recipe and a dataset file.", LOOK),
    Entry(
        "buckets",
        "flows.cli.buckets:buckets",
        "Propose buckets that waste the fewest pixels and frames.",
        LOOK,
    ),
    Entry("report", "flows.cli.report:report", "Write the dataset report of a snapshot.", LOOK),
    Entry("explain", "flows.cli.explain:explain", "Show what would be computed again, and why.", LOOK),
    Entry("doctor", "flows.cli.doctor:doctor", "Show what this machine has and lacks.", LOOK),
    Entry("verify", "flows.cli.store:verify", "Check stored files against their checksums.", STORE),
    Entry("retry", "flows.cli.store:retry", "Lift the quarantine of a clip, or of all.", STORE),
    Entry("gc", "flows.cli.store:gc", "Remove what no kept run, snapshot or stage needs.", STORE),
    Entry("compact", "flows.cli.store:compact", "Merge the store's small files.", STORE),
    Entry("use-store", "flows.cli.store:use_store", "Keep this workspace's store somewhere else.", STORE),
    Entry("lora", "flows.cli.lora:app", "Inspect, convert, merge and resize LoRA files.", SHARE),
    Entry("models", "flows.cli.models:models", "List the champions and their versions.", SHARE),
    Entry("promote", "flows.cli.models:promote", "Make a judged LoRA the champion.", SHARE),
    Entry("rollback", "flows.cli.models:rollback", "Take back the champion before this one.", SHARE),
    Entry("push", "flows.cli.push:push", "Upload the LoRA of a finished run to the Hugging Face hub.", SHARE),
    Entry(
        "import-simpletuner",
        "flows.cli.import_simpletuner:import_simpletuner",
        "Write datasets.yaml and recipe.yaml from SimpleTuner's files.",
        SHARE,
    ),
)

app = typer.Typer(
    cls=group_of(COMMANDS), no_args_is_help=True, add_completion=False, rich_markup_mode="rich", help=__doc__
)


@app.callback(help=("Train LoRAs for LTX-2: run the pipeline, look at its results, and maintain its store."))
def ltx2() -> None:
    """Tell typer that this is a group, although it registers no command itself."""
