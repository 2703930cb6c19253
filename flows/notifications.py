"""Messages about runs of train-ltx2: Prefect's own notification blocks, and automations that use them.

The address holds a secret, as a rule. It lies in a block, which Prefect keeps encrypted in its database.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Literal, cast
from uuid import UUID

import httpx
from prefect.automations import Automation, AutomationCore
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from pydantic import SecretStr

from flows.deployment import ensure_automation

FLOW: Final = "train-ltx2"
BLOCK: Final = "ltx2-notify"
Kind = Literal["webhook", "slack"]
WORDS: Final = {
    "done": ("prefect.flow-run.Completed",),
    "failed": ("prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"),
}
"""The reported ends of a run, and their events."""
SUBJECT: Final = "train-ltx2 {{ flow_run.state.name | lower }}: {{ flow_run.name }}"
BODY: Final = "{{ flow_run.state.message or 'no message' }}\n{{ flow_run | ui_url }}"
TRIAL: Final = ("ltx2 notify: a test message", "Messages about train-ltx2 will arrive here.")


class NotificationRefused(ValueError):
    """Messages cannot be sent to the given place; the text says why."""


def block_for(kind: Kind, address: str) -> Block:
    """A block that sends to an address. A webhook gets JSON with `title` and `text`.

    Raises:
        NotificationRefused: the address is none of this kind.
    """
    if not address.startswith(("https://", "http://")):
        raise NotificationRefused("the address does not begin with https:// or http://")
    if kind == "slack":
        return SlackWebhook(url=SecretStr(address))
    return CustomWebhookNotificationBlock(
        name=BLOCK,
        # Not in `url` itself, which every user of the UI can read.
        url="{{address}}",
        secrets={"address": address},
        json_data={"title": "{{subject}}", "text": "{{body}}"},
    )


def set_up(block: Block) -> list[str]:
    """Keep the block and make the automations that use it; doing it again changes only what differs.

    Returns:
        The automations' names.
    """
    document = block.save(BLOCK, overwrite=True)
    return use(UUID(str(document)))


def use(document: UUID) -> list[str]:
    """Make the automations send by a block that is there; the automations' names."""
    wanted = [automation(word, document) for word in WORDS]
    for core in wanted:
        ensure_automation(core)
    return [core.name for core in wanted]


def automation(word: str, document: UUID) -> AutomationCore:
    """The automation that reports one kind of end, once for each run."""
    return AutomationCore.model_validate(
        {
            "name": f"ltx2-notify-{word}",
            "description": f"Send a message when a run of {FLOW} is {word}.",
            "enabled": True,
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "expect": list(WORDS[word]),
                "match": {"prefect.resource.id": "prefect.flow-run.*"},
                "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": FLOW},
                "for_each": ["prefect.resource.id"],
                "threshold": 1,
                "within": 0,
            },
            "actions": [
                {
                    "type": "send-notification",
                    "block_document_id": str(document),
                    "subject": SUBJECT,
                    "body": BODY,
                }
            ],
        }
    )


def named_block(client: SyncPrefectClient, name: str) -> tuple[Block, UUID]:
    """A notification block that was made in the UI, as TYPE/NAME.

    Raises:
        NotificationRefused: there is none of this name, or it sends nothing.
    """
    kind, _, document = name.partition("/")
    if not document:
        raise NotificationRefused(f"{name!r} is not TYPE/NAME, such as slack-webhook/team")
    try:
        block = Block.load(name)
    except ValueError:
        known = client.read_block_documents_by_type(kind)
        listed = ", ".join(f"{kind}/{found.name}" for found in known) or f"no block of type {kind}"
        raise NotificationRefused(f"there is no block {name}; there is {listed}") from None
    if not isinstance(block, NotificationBlock) or block._block_document_id is None:
        raise NotificationRefused(f"the block {name} sends no messages; give one of a notification type")
    return block, block._block_document_id


def send_trial(block: Block) -> None:
    """Send a message as the automations will.

    Raises:
        NotificationRefused: it was not taken; the text names the answer, and no secret.
    """
    if not isinstance(block, NotificationBlock):
        raise NotificationRefused("the block sends no messages")
    subject, body = TRIAL
    try:
        with block.raise_on_failure():
            # Prefect's own method is either of both: here no loop runs, so it has been sent on return.
            cast(Callable[..., None], block.notify)(body=body, subject=subject)
    except (NotificationError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotificationRefused(f"the message was not accepted: {_without_address(error, block)}") from None


def _without_address(error: Exception, block: Block) -> str:
    """What went wrong. HTTP errors name the whole address, which is the secret."""
    text = f"{type(error).__name__}: {error}"
    for secret in _secrets(block.model_dump()):
        text = text.replace(secret, "(the address)")
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _secrets(values: Any) -> list[str]:
    if isinstance(values, dict):
        return [text for value in values.values() for text in _secrets(value)]
    hidden = getattr(values, "get_secret_value", None)
    if hidden is None:
        return []
    found = hidden()
    return [str(text) for text in found.values()] if isinstance(found, dict) else [str(found)]


def turn_off() -> list[str]:
    """Remove the automations; the block stays. Returns the names of those that were there."""
    removed = []
    for word in WORDS:
        try:
            found = cast(Automation, Automation.read(name=automation(word, UUID(int=0)).name))
        except ValueError:
            continue
        cast(Callable[[], None], found.delete)()
        removed.append(found.name)
    return removed
