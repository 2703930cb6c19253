"""A repository of the hub, on a real HTTP server: one commit, no second one, and what is told of faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from ltxcore.config.hub_settings import HubSettings
from ltxcore.publishing.errors import HubError, HubRefused, HubUnreachable
from ltxcore.publishing.hub import Hub, Pushed
from ltxcore.publishing.token import local_token, require_token
from tests.e2e.readme import ROOT
from tests.hub_server import FakeHub, Repository, fake_hub

COMMIT = "POST /api/models/.*/commit/"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fake_hub() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file that goes to the large storage, and one that goes with the commit."""
    (tmp_path / "lora.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "notes.txt").write_text("a note")
    return {"lora.safetensors": tmp_path / "lora.safetensors", "samples/notes.txt": tmp_path / "notes.txt"}


def opened(hub: FakeHub, name: str = "me/lora", private: bool = True, token: str = "") -> Hub:
    settings = HubSettings(push_to_hub=True, hub_model_id=name, hub_private=private)
    return Hub(settings, token or hub.token, hub.url)


def push(hub: FakeHub, files: dict[str, Path], card: str = "# card", **more: Any) -> Pushed:
    return opened(hub, **more).push(files, card, "a message", lambda name: name.startswith("samples/"))


def test_all_of_it_is_one_commit_in_a_private_repository(hub: FakeHub, files: dict[str, Path]) -> None:
    pushed = push(hub, files)
    repo = hub.repositories["me/lora"]
    assert repo.private
    assert repo.commits[1:] == ["a message"]
    assert repo.files == {
        "lora.safetensors": b"weights" * 1000,
        "samples/notes.txt": b"a note",
        "README.md": b"# card",
    }
    assert hub.count("PUT /storage/") == 1, "the large file alone"
    assert (pushed.repo, pushed.commit, pushed.files) == ("me/lora", repo.sha, 3)
    assert pushed.url == f"{hub.url}/me/lora/commit/{repo.sha}"


def test_the_same_again_is_no_commit_and_leaves_an_edited_card(hub: FakeHub, files: dict[str, Path]) -> None:
    first = push(hub, files)
    hub.repositories["me/lora"].files["README.md"] = b"# card, with a picture of mine"
    again = push(hub, files, card="# another card")
    assert (again.files, again.commit) == (0, first.commit)
    assert hub.count(COMMIT) == 1
    assert hub.repositories["me/lora"].files["README.md"] == b"# card, with a picture of mine"


def test_another_content_of_the_same_size_is_sent_and_what_was_ours_goes(
    hub: FakeHub, files: dict[str, Path]
) -> None:
    push(hub, files)
    hub.repositories["me/lora"].files["LICENSE"] = b"mine"
    files["lora.safetensors"].write_bytes(b"WEIGHTS" * 1000)
    del files["samples/notes.txt"]
    pushed = push(hub, files, card="# new")
    assert hub.repositories["me/lora"].files == {
        "lora.safetensors": b"WEIGHTS" * 1000,
        "README.md": b"# new",
        "LICENSE": b"mine",
    }
    assert pushed.files == 2
    assert len(hub.repositories["me/lora"].commits) == 3


def test_a_name_without_owner_is_the_tokens_owners(hub: FakeHub, files: dict[str, Path]) -> None:
    assert opened(hub, "lora").check() == "me/lora"
    assert push(hub, files, name="lora", private=False).repo == "me/lora"
    assert not hub.repositories["me/lora"].private


def test_what_is_to_be_private_never_goes_to_a_public_repository(
    hub: FakeHub, files: dict[str, Path]
) -> None:
    hub.repositories["me/lora"] = Repository(private=False)
    for act in (opened(hub).check, lambda: push(hub, files)):
        with pytest.raises(
            HubRefused, match=r"me/lora is public, but hub.hub_private is true; make it private"
        ):
            act()
    assert hub.repositories["me/lora"].files == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stranger/lora", r"who is not a member of stranger; write me/… or club/… or library/…"),
        ("library/lora", r"me may only read in library, .* write hub_model_id: me/lora"),
        (
            "club/shared",
            r"refused to write to club/shared \(403 .*read access.*\); the token may not do that",
        ),
    ],
)
def test_an_id_that_may_not_be_written_is_refused_beforehand(hub: FakeHub, name: str, message: str) -> None:
    hub.repositories["club/shared"] = Repository(private=True)
    hub.read_only.add("club/shared")
    with pytest.raises(HubRefused, match=message):
        opened(hub, name).check()
    assert opened(hub, "club/lora").check() == "club/lora"
    assert hub.count("POST") == 0, "a check makes nothing"


@pytest.mark.parametrize(
    ("token", "is_fine"),
    [
        ({"role": "read"}, False),
        ({"role": "write"}, True),
        ({"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read"]}]}}, False),
        ({"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.write"]}]}}, True),
    ],
)
def test_a_token_that_only_reads_is_refused_beforehand(
    hub: FakeHub, token: dict[str, Any], is_fine: bool
) -> None:
    hub.account["auth"]["accessToken"] = {"displayName": "laptop", **token}
    if is_fine:
        assert opened(hub).check() == "me/lora"
        return
    with pytest.raises(
        HubRefused, match=r"the token 'laptop' may only read.* make one with the right to write"
    ):
        opened(hub).check()


def test_a_wrong_token_is_refused_and_not_shown(hub: FakeHub, files: dict[str, Path]) -> None:
    wrong = "hf_wrongwrongwrong"
    for act in (lambda: opened(hub, token=wrong).check(), lambda: push(hub, files, token=wrong)):
        with pytest.raises(HubRefused, match=r"401 .*the token is wrong or no longer valid") as caught:
            act()
        assert wrong not in str(caught.value)


def test_what_the_server_says_is_reported_without_the_token(hub: FakeHub, files: dict[str, Path]) -> None:
    hub.fail(COMMIT, 403, message=f"no right for {hub.token}")
    with pytest.raises(HubRefused, match=r"403 .*no right for \*\*\*") as caught:
        push(hub, files)
    assert hub.token not in str(caught.value)


@pytest.mark.parametrize("status", [500, 503, 429, 412])
def test_a_fault_of_the_hub_may_pass(hub: FakeHub, files: dict[str, Path], status: int) -> None:
    hub.fail(COMMIT, status)
    with pytest.raises(HubUnreachable, match=rf"refused to upload to me/lora \({status} .*try again later"):
        push(hub, files)
    assert hub.repositories["me/lora"].files == {}
    assert push(hub, files).files == 3
    assert hub.count("PUT /storage/") == 1, "what had arrived is not sent again"


def test_no_connection_may_pass() -> None:
    with fake_hub() as gone:
        pass
    with pytest.raises(HubUnreachable, match=r"could not be reached .*check the network and HF_ENDPOINT"):
        opened(gone).check()


def test_a_fault_of_the_storages_own_client_may_pass(
    hub: FakeHub, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.fail("xet-write-token", 403)
    with pytest.raises(HubUnreachable, match=r"could not be reached to upload to me/lora .*403"):
        push(hub, files)


def test_a_proxys_page_may_pass_and_a_refused_card_may_not(hub: FakeHub, files: dict[str, Path]) -> None:
    hub.fail("validate-yaml", 502, page="<html>bad gateway</html>")
    with pytest.raises(HubUnreachable, match="could not be reached to upload"):
        push(hub, files)
    hub.fail("validate-yaml", 400, message="no such tag")
    with pytest.raises(HubRefused, match=r"refused to upload to me/lora \(Invalid metadata in README.md"):
        push(hub, files)


def test_killed_in_the_middle_leaves_no_half_commit(hub: FakeHub, files: dict[str, Path]) -> None:
    hub.fail("PUT /storage/", stall_s=30)
    code = (
        "from pathlib import Path\n"
        "from ltxcore.config.hub_settings import HubSettings\n"
        "from ltxcore.publishing.hub import Hub\n"
        f"hub = Hub(HubSettings(hub_model_id='me/lora'), {hub.token!r}, {hub.url!r})\n"
        f"files = {{name: Path(file) for name, file in { {n: str(f) for n, f in files.items()}!r}.items()}}\n"
        "hub.push(files, '# card', 'killed', lambda name: False)\n"
    )
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not hub.count("PUT /storage/"):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert hub.repositories["me/lora"].commits == ["initial commit"]
    assert push(hub, files).files == 3
    assert hub.repositories["me/lora"].commits == ["initial commit", "a message"]


def test_a_token_is_needed_and_offline_forbids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(
        HubRefused, match=r"no token of the hub; set HF_TOKEN, .* Secret block named hf-token"
    ):
        require_token(local_token())
    monkeypatch.setenv("HF_TOKEN", "hf_one")
    assert require_token(local_token()) == "hf_one"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubRefused, match="HF_HUB_OFFLINE forbids"):
        require_token(local_token())


def test_refusals_and_faults_are_distinguished() -> None:
    assert issubclass(HubRefused, HubError)
    assert not issubclass(HubUnreachable, HubRefused)
