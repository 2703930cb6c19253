"""What a person reads when a model cannot be used."""

from __future__ import annotations


class ModelError(Exception):
    """A model that is missing, incomplete, or not what it was taken for; the text says what to do."""
