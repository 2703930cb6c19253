"""A repository on the Hugging Face hub: whether it may be written, and one commit with all of a LoRA."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ltxcore.config.base import Strict
from ltxcore.config.hub_settings import HubSettings
from ltxcore.deadline import CALL_LIMIT_S, transfer_limit, within
from ltxcore.publishing.errors import HubRefused, HubUnreachable
from ltxcore.store.fingerprint import hash_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.hf_api import RepoSibling

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

COMMIT_LIMIT_S: Final = 60.0
"""The hub itself checks and stores the files of a commit before it answers."""

CARD = "README.md"
# Conflicts are among them: somebody else has written meanwhile, and the next try compares anew.
MAY_PASS = (408, 409, 412, 425, 429)
MAY_WRITE = ("write", "admin", "contributor")


class Pushed(Strict):
    """A LoRA on the hub."""

    repo: str
    commit: str
    """The one that holds it, or the newest one where nothing was missing."""
    url: str
    """Of the commit."""
    files: int
    """Sent with that commit; 0 where all was there."""


class Hub:
    """The repository that a recipe names.

    Args:
        settings: with a `hub_model_id`.
        token: sent to the hub, and never shown.
        endpoint: Default: HF_ENDPOINT, or the public hub.
        limit_s: for each answer; an upload may take a minute and what its files need on top.
    """

    def __init__(
        self, settings: HubSettings, token: str, endpoint: str | None = None, limit_s: float = CALL_LIMIT_S
    ) -> None:
        if settings.hub_model_id is None:
            raise HubRefused("there is no repository to upload to; write hub.hub_model_id: my-name/my-lora")
        self._settings, self._name = settings, settings.hub_model_id
        self._token, self._endpoint, self._limit_s = token, endpoint, limit_s

    @cached_property
    def repo(self) -> str:
        """`owner/name`; where the recipe names no owner, it is the token's.

        Raises:
            HubRefused, HubUnreachable: the hub does not say whose the token is.
        """
        return self._name if "/" in self._name else f"{self._account['name']}/{self._name}"

    def check(self) -> str:
        """Check, before the stages run, that this token may write to this repository.

        Returns:
            The repository.

        Raises:
            HubRefused: it may not, or what is to be private is public.
            HubUnreachable: the hub does not answer.
        """
        self._check_owner()
        self._check_token()
        info = self._info()
        if info is not None:
            self._check_private(info)
            with self._telling(f"write to {self.repo}"):
                self._ask("the right to write", lambda: self._api.auth_check(self.repo, write=True))
        return self.repo

    def push(self, files: Mapping[str, Path], card: str, message: str, ours: Callable[[str], bool]) -> Pushed:
        """Bring the repository up to these files in one commit, or none where they are all there.

        The card is written with new files only: what somebody has written on the hub stays until then.

        Args:
            files: path in the repository -> file.
            card: README.md.
            message: of the commit.
            ours: whether an earlier upload may have made a path of the repository; it goes if it is not
                among the files.

        Raises:
            HubRefused: the token may not write, or what is to be private is public.
            HubUnreachable: the hub does not answer, or has a fault.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        info = self._info() or self._create()
        self._check_private(info)
        there = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        lacking = [name for name, file in files.items() if not _is_there(file, there.get(name))]
        gone = [name for name in there if ours(name) and name not in files]
        if not lacking and not gone and CARD in there:
            logger.info("%s has all of it already", self.repo)
            return Pushed(repo=self.repo, commit=str(info.sha), url=self._commit_url(str(info.sha)), files=0)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, files[name]) for name in lacking),
            *(CommitOperationDelete(name) for name in gone),
            CommitOperationAdd(CARD, card.encode()),
        ]
        with self._telling(f"upload to {self.repo}"):
            size = sum(files[name].stat().st_size for name in lacking)
            commit = within(
                COMMIT_LIMIT_S + transfer_limit(size),
                f"the upload to {self.repo}",
                lambda: self._api.create_commit(self.repo, operations, commit_message=message),
            )
        return Pushed(repo=self.repo, commit=commit.oid, url=commit.commit_url, files=len(lacking) + 1)

    @cached_property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=self._token, library_name="ltx2-flows")

    @cached_property
    def _account(self) -> dict[str, Any]:
        with self._telling("ask whose the token is"):
            return self._ask("whose the token is", self._api.whoami)

    def _check_owner(self) -> None:
        owner, user = self.repo.split("/")[0], self._account["name"]
        member = {org["name"]: org.get("roleInOrg") for org in self._account.get("orgs", ())}
        if owner == user:
            return
        if owner not in member:
            places = " or ".join(f"{name}/…" for name in (user, *member))
            raise HubRefused(
                f"hub.hub_model_id is {self.repo}, but the token is {user}'s, who is not a member of "
                f"{owner}; write {places}, or give a token of {owner}"
            )
        if member[owner] is not None and member[owner] not in MAY_WRITE:
            raise HubRefused(
                f"{user} may only {member[owner]} in {owner}, so that {self.repo} cannot be written; write "
                f"hub_model_id: {user}/{self.repo.split('/')[1]}, or ask for the right to write"
            )

    def _check_token(self) -> None:
        given = (self._account.get("auth") or {}).get("accessToken") or {}
        scopes = (given.get("fineGrained") or {}).get("scoped") or ()
        rights = [right for scope in scopes for right in scope.get("permissions", ())]
        writes = any(right.startswith("repo.") and right.endswith("write") for right in rights)
        if given.get("role") == "read" or (given.get("role") == "fineGrained" and not writes):
            raise HubRefused(
                f"the token {given.get('displayName', '')!r} may only read, so that {self.repo} cannot be "
                "written; make one with the right to write in the hub's settings, under Access Tokens"
            )

    def _info(self) -> ModelInfo | None:
        """What the repository holds, None where there is none yet."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._telling(f"look at {self.repo}"):
            try:
                return self._read_info()
            except RepositoryNotFoundError as error:
                if error.response.status_code == 404:
                    return None
                raise

    def _create(self) -> ModelInfo:
        with self._telling(f"make the repository {self.repo}"):
            private = self._settings.hub_private
            self._ask(
                "making the repository",
                lambda: self._api.create_repo(self.repo, private=private, exist_ok=True),
            )
            return self._read_info()

    def _read_info(self) -> ModelInfo:
        return self._ask("its files", lambda: self._api.model_info(self.repo, files_metadata=True))

    def _ask(self, what: str, call: Callable[[], Answer]) -> Answer:
        """The hub's client has no time-outs of its own."""
        return within(self._limit_s, f"the hub's answer about {what}", call)

    def _check_private(self, info: ModelInfo) -> None:
        if self._settings.hub_private and not info.private:
            raise HubRefused(
                f"{self.repo} is public, but hub.hub_private is true; make it private in its settings, name "
                "another hub_model_id, or write hub_private: false (`ltx2 push --public`)"
            )

    def _commit_url(self, commit: str) -> str:
        return f"{self._api.endpoint}/{self.repo}/commit/{commit}"

    @contextmanager
    def _telling(self, purpose: str) -> Iterator[None]:
        """Say of a fault of the hub whether it can pass, and what to do; never with the token in it."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except HfHubHTTPError as error:
            status = error.response.status_code
            said = self._without_token(error.server_message or error.response.reason_phrase)
            message = f"the hub at {self._api.endpoint} refused to {purpose} ({status} {said})"
            if status >= 500 or status in MAY_PASS:
                raise HubUnreachable(f"{message}; try again later") from None
            raise HubRefused(f"{message}; {_remedy(status)}") from None
        except (httpx2.TransportError, ConnectionError, TimeoutError, json.JSONDecodeError) as error:
            # The storage's client, hf_xet, raises Python's own; a proxy answers with a page for people.
            raise HubUnreachable(
                f"the hub at {self._api.endpoint} could not be reached to {purpose} "
                f"({self._without_token(str(error)) or type(error).__name__}); check the network and "
                "HF_ENDPOINT"
            ) from None
        except ValueError as error:
            said = self._without_token(str(error))
            raise HubRefused(
                f"the hub at {self._api.endpoint} refused to {purpose} ({said}); mend what it says"
            ) from None

    def _without_token(self, text: str) -> str:
        return " ".join(text.replace(self._token, "***").split())


def _remedy(status: int) -> str:
    if status == 401:
        return "the token is wrong or no longer valid: give another one"
    if status == 403:
        return "the token may not do that: give one with the right to write, or name another hub_model_id"
    return "mend what it says, or name another hub_model_id"


def _is_there(file: Path, sibling: RepoSibling | None) -> bool:
    """Whether the repository holds a file with the same content under its name."""
    if sibling is None or sibling.size != file.stat().st_size:
        return False
    if sibling.lfs is not None:
        return bool(sibling.lfs.sha256 == hash_file(file))
    return bool(sibling.blob_id == _git_hash(file.read_bytes()))


def _git_hash(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
