"""Checks of an upload that do not ask the hub: whether it may be reached, and with which token."""

from __future__ import annotations

from ltxcore.publishing.errors import HubRefused

SECRET_BLOCK = "hf-token"  # noqa: S105 - the name of Prefect's block, not what is in it


def local_token() -> str | None:
    """The token of this machine: HF_TOKEN, or that of `hf auth login`."""
    from huggingface_hub import get_token

    return get_token()


def require_token(token: str | None) -> str:
    """The token that was found, if an upload can begin with it.

    Raises:
        HubRefused: HF_HUB_OFFLINE is set, or there is no token.
    """
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise HubRefused(
            "nothing can be uploaded: HF_HUB_OFFLINE forbids every question to the hub; unset it, or leave "
            "push_to_hub out and run `ltx2 push` without it later"
        )
    if not token:
        raise HubRefused(
            "nothing can be uploaded: there is no token of the hub; set HF_TOKEN, run `hf auth login`, or "
            f"make a Secret block named {SECRET_BLOCK} on the Prefect server, of a token that may write; or "
            "leave push_to_hub out and run `ltx2 push` later"
        )
    return token
