"""A server that sends one byte after the other, for ever, holds no call to the outside."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import answers
from ltxcore.config.hub_settings import HubSettings
from ltxcore.deadline import Caller, DeadlineError, within
from ltxcore.models.errors import ModelError
from ltxcore.models.files import locate_weights
from ltxcore.publishing.errors import HubUnreachable
from ltxcore.publishing.hub import Hub
from ltxcore.tracking.mlflow_run import MlflowRun, Tracking

LIMIT_S = 0.5
PATIENCE_S = 20.0
"""So long the server drips; a call that it holds ends only then, with the wrong error."""


class Drip(socketserver.BaseRequestHandler):
    """Answers with a header that never ends; each byte comes well within any time-out of a read."""

    over: threading.Event
    asked = 0

    def handle(self) -> None:
        type(self).asked += 1
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        for _ in range(int(PATIENCE_S / 0.05)):
            if self.over.wait(0.05):
                return
            try:
                self.request.sendall(b"x")
            except OSError:
                return


@pytest.fixture
def dripping(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Drip]]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = type("OneDrip", (Drip,), {"over": threading.Event(), "asked": 0})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        handler.over.set()
        server.shutdown()


def until_asked(server: type[Drip]) -> None:
    """A call that is given up goes on: on a busy machine it may only now reach the server."""
    deadline = time.monotonic() + 300
    while not server.asked:
        assert time.monotonic() < deadline, "nothing has asked the server"
        time.sleep(0.05)


def test_mlflow_is_given_up_and_asked_no_second_time_while_it_hangs(
    dripping: tuple[str, type[Drip]], tmp_path: Path
) -> None:
    url, server = dripping
    run = MlflowRun(
        Tracking(url, None), "ltx2", "night", tmp_path / "state.json", retry_after_s=0, call_limit_s=LIMIT_S
    )
    assert "longer than 0.5 s" in str(run.begin().error)
    assert "has not ended yet" in str(run.log_params({"rank": 4}).error)
    assert "has not ended yet" in str(run.finish("FINISHED").error)
    until_asked(server)
    assert server.asked == 1


def test_the_hub_is_given_up(dripping: tuple[str, type[Drip]]) -> None:
    settings = HubSettings(push_to_hub=True, hub_model_id="me/lora")
    with pytest.raises(HubUnreachable, match=r"longer than 0.5 s"):
        Hub(settings, "hf_token", dripping[0], limit_s=LIMIT_S).check()


def test_a_model_is_looked_for_here_where_the_hub_does_not_answer(
    dripping: tuple[str, type[Drip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", dripping[0])
    monkeypatch.setattr(locate_weights, "CALL_LIMIT_S", LIMIT_S)
    with pytest.raises(ModelError, match="the hub could not be reached"):
        locate_weights.hub_snapshot("nobody/nothing", None, ("*.json",), fetch=True)
    until_asked(dripping[1])
    assert dripping[1].asked == 1


def test_a_health_check_is_given_up(dripping: tuple[str, type[Drip]]) -> None:
    assert not answers(dripping[0], limit_s=LIMIT_S)


def test_a_call_in_time_gives_its_result_or_its_error() -> None:
    assert within(PATIENCE_S, "adding", lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        within(PATIENCE_S, "dividing", lambda: 1 / 0)


def test_calls_go_on_when_the_one_that_hung_has_ended() -> None:
    caller, over = Caller(), threading.Event()
    with pytest.raises(DeadlineError, match=r"the first took longer"):
        caller.within(0.05, "the first", lambda: over.wait(PATIENCE_S))
    with pytest.raises(DeadlineError, match="the second was not tried: the first"):
        caller.within(PATIENCE_S, "the second", lambda: None)
    over.set()
    assert caller._thread is not None
    caller._thread.join()
    assert caller.within(PATIENCE_S, "the third", lambda: 3) == 3
