"""Runs a stage within its budget and records the result; and sweeps the workspace."""
