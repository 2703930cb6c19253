"""The error for a model that cannot be used."""

from __future__ import annotations


class ModelError(Exception):
    """A model is missing, incomplete, or not the expected one; the text says what to do."""
