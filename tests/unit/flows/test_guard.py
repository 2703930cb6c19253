"""The secret of a workspace, the links that sign in, and whose requests the guard takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flows.child_process import ROOT
from flows.guard.hosts import host_name, known_names, reached_at, shown_at
from flows.guard.middleware import Guard, foreign
from flows.guard.sign_in import LIFE_S, make_link, redeem
from flows.secret import find_secret, secret_file, server_secret
from tests.e2e.browser import chromium


def test_of_many_that_make_the_secret_all_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: server_secret(tmp_path), range(32)))
    assert made == {find_secret(tmp_path)}
    assert secret_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*partial"))


@pytest.mark.parametrize("text", ["", "ltx2:", "ltx2:short", "\0\0\0"])
def test_a_damaged_secret_is_replaced(text: str, tmp_path: Path) -> None:
    secret_file(tmp_path).write_text(text)
    assert find_secret(tmp_path) is None
    assert server_secret(tmp_path) == find_secret(tmp_path)


def test_a_secret_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    first = server_secret(tmp_path)
    assert server_secret(tmp_path) == first
    secret_file(tmp_path).chmod(0o644)
    assert server_secret(tmp_path) != first
    assert secret_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_link_works_once_and_for_a_week(tmp_path: Path) -> None:
    token = make_link(tmp_path, "http://127.0.0.1:4200").partition("#")[2]
    assert not redeem(tmp_path, "../auth")
    assert redeem(tmp_path, token)
    assert not redeem(tmp_path, token)
    old = make_link(tmp_path, "http://127.0.0.1:4200").partition("#")[2]
    (file,) = (tmp_path / "sign-in").iterdir()
    assert old not in file.name
    past = time.time() - LIFE_S - 1
    os.utime(file, (past, past))
    assert not redeem(tmp_path, old)


def reason(method: str = "GET", **headers: str) -> str | None:
    written = {name.replace("_", "-"): value for name, value in {"host": "127.0.0.1:4200", **headers}.items()}
    return foreign({"type": "http", "method": method}, Headers(written), known_names("127.0.0.1"))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:4200", "localhost:9999", "LOCALHOST:4200", "localhost.:4200", "[::1]:4200"),
        *("192.168.1.7:4200", "localhost"),
    ],
)
def test_addresses_and_known_names_are_taken(host: str) -> None:
    assert reason(host=host) is None
    assert reason(host=host, origin=f"http://{host}", method="POST") is None


@pytest.mark.parametrize(
    "host", ["evil.example:4200", "127.0.0.1.evil.example", "localhost.evil.example", "", "."]
)
def test_other_names_are_refused(host: str) -> None:
    assert "not a name of this server" in str(reason(host=host))


def test_more_names_are_taken_where_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2_ALLOWED_HOSTS", "train.example, Other.example")
    assert reason(host="train.example:443", origin="https://train.example:443") is None
    assert reason(host="other.example") is None
    assert reason(host="third.example") is not None


@pytest.mark.parametrize(
    "origin",
    ["null", "http://127.0.0.1:4201", "http://localhost:4200", "http://127.0.0.1", "http://evil.example"],
)
def test_other_origins_are_refused(origin: str) -> None:
    assert "another origin" in str(reason(origin=origin))


def test_a_link_from_elsewhere_opens_and_nothing_else_does() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert reason(**link) is None
    assert reason(**(link | {"sec_fetch_dest": "iframe"})) is not None
    assert reason(**link, method="POST") is not None
    assert reason(sec_fetch_site="same-site", sec_fetch_mode="no-cors", sec_fetch_dest="image") is not None
    assert reason(sec_fetch_site="same-origin", sec_fetch_mode="cors", sec_fetch_dest="empty") is None


@pytest.mark.parametrize(
    ("bound", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("192.168.1.7", "192.168.1.7"), ("::1", "[::1]")],  # noqa: S104
)
def test_where_a_bound_server_is_reached(bound: str, reached: str) -> None:
    assert reached_at(bound) == reached
    assert shown_at(bound) in (reached, socket.gethostname())
    assert host_name(f"{reached}:80") == reached.strip("[]")


def test_a_server_that_crashes_leaves_its_stack_in_its_log() -> None:
    crash = "async def app(scope, receive, send): os.kill(os.getpid(), signal.SIGSEGV)"
    code = f"import os, signal\nfrom flows.guard.serving import run\n{crash}\nrun(app, '127.0.0.1', 0)"
    crashed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert crashed.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in crashed.stderr
    assert "in app" in crashed.stderr


@pytest.fixture
def guarded_at(tmp_path: Path) -> Iterator[str]:
    """The address of a small guarded server."""
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("inside"))])
    guard = Guard(
        app, names=known_names("127.0.0.1"), home=tmp_path, secret=server_secret(tmp_path), private=True
    )
    config = uvicorn.Config(guard, host="127.0.0.1", port=0, log_level="warning")
    listening, server = config.bind_socket(), uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_pages_of_the_guard_say_what_is_the_matter_and_sign_in(guarded_at: str, tmp_path: Path) -> None:
    link = make_link(tmp_path, guarded_at)
    with chromium() as browser:
        page = browser.new_page()
        troubles: list[str] = []
        page.on(
            "console", lambda said: troubles.append(said.text) if "Security Policy" in said.text else None
        )
        page.goto(guarded_at)
        assert "has not signed in" in page.locator("body").inner_text()
        page.goto(f"{guarded_at}/ltx2/sign-in")
        page.get_by_text("only half a link").wait_for()
        assert page.get_by_role("link", name="the pages").count() == 1, "the other paragraphs are hidden"
        page.goto("about:blank")
        page.goto(f"{guarded_at}/ltx2/sign-in#guessed")
        page.get_by_text("used already").wait_for()
        page.goto("about:blank")
        page.goto(link)
        page.get_by_text("inside").wait_for()
        assert page.evaluate("localStorage.getItem('prefect-password')")
        blocked = [trouble for trouble in troubles if "Security Policy" in trouble]
        assert blocked == [], "its own script and style are those that its policy names"
        page.goto(f"{guarded_at}/ltx2/sign-in")
        page.get_by_text("only half a link").wait_for()
        refused = "() => { const s = document.createElement('script'); s.text = 'window.ran = 1';"
        assert page.evaluate(refused + " document.body.append(s); return window.ran === 1; }") is False
