"""Why something cannot be published: permanently, or for now."""

from __future__ import annotations


class HubError(RuntimeError):
    """The hub did not take something; the text says why and what to do."""


class HubRefused(HubError):
    """The hub refused; trying again does not help: no token, no permission, the wrong repository."""


class HubUnreachable(HubError):
    """The hub was unreachable or failed on its side; trying again may succeed."""
