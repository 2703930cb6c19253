"""`python -m flows.cli`."""

from flows.cli.app import app

app()
