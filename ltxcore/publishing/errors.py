"""Why something cannot be published: for good, or for now."""

from __future__ import annotations


class HubError(RuntimeError):
    """The hub did not take something; the text says why and what to do."""


class HubRefused(HubError):
    """It will not take it the next time either: no token, no right, the wrong repository."""


class HubUnreachable(HubError):
    """It may take it the next time: no connection, or a fault of its own."""
