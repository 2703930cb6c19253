"""Pages of other origins against the servers of `ltx2 serve`, in a browser that has signed in."""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pytest

from flows.environment import prefect_home
from flows.secret import authorization, find_secret, session_cookie
from tests.e2e.browser import chromium, find_chromium
from tests.e2e.serving import api, start_serving

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SERVERS = ("prefect", "mlflow", "files")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
GALLERY = "<!doctype html><title>Gallery</title><h1>All the pictures</h1><img src=one.png>"
STRANGER, REBOUND = "stranger.test", "rebound.test"


@dataclass(frozen=True)
class House:
    """A served workspace, the addresses that it printed, and a page of a stranger."""

    workspace: Path
    sign_in: str
    at: dict[str, str]
    stranger_port: int
    deployment: str

    def origins(self, server: str) -> dict[str, str]:
        """Where a stranger's page may come from: elsewhere, another port of this machine, a rebound name."""
        return {
            "elsewhere": f"http://{STRANGER}:{self.stranger_port}/",
            "another port": f"http://127.0.0.1:{self.stranger_port}/",
            "a rebound name": self.at[server].replace("127.0.0.1", REBOUND) + "/",
        }

    def targets(self, server: str) -> dict[str, str]:
        """What is started, read, embedded and listened to; only Prefect has sockets."""
        start, read, embed = {
            "prefect": (
                f"/api/deployments/{self.deployment}/create_flow_run",
                "/ui-settings",
                "/ico/favicon.ico",
            ),
            "mlflow": (
                "/api/2.0/mlflow/experiments/create",
                "/ajax-api/2.0/mlflow/experiments/search?max_results=9",
                "/static-files/favicon.ico",
            ),
            "files": ("/gallery/index.html", "/gallery/index.html", "/gallery/one.png"),
        }[server]
        return {"start": start, "read": read, "embed": embed, "socket": "/api/events/out"}

    def ask(self, url: str, headers: dict[str, str]) -> tuple[int, str]:
        answer = httpx.get(url, headers=headers, timeout=300, trust_env=False)
        return answer.status_code, answer.text

    def started(self) -> list[str]:
        """All that a stranger could have made: flow runs, experiments, files."""
        with api(self.workspace) as client:
            runs = [str(run.id) for run in client.read_flow_runs()]
        secret = find_secret(prefect_home(self.workspace)) or ""
        url = self.at["mlflow"] + self.targets("mlflow")["read"]
        status, text = self.ask(url, {"Authorization": authorization(secret)})
        assert status == 200, text
        names = [experiment["name"] for experiment in json.loads(text)["experiments"]]
        return [*runs, *names, *sorted(map(str, (self.workspace / "stages").rglob("*")))]


class Stranger(BaseHTTPRequestHandler):
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A stranger's page</title>")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test prints what failed."""


@pytest.fixture(scope="module")
def browser_context(house: House) -> Iterator[BrowserContext]:
    rules = f"--host-resolver-rules=MAP {STRANGER} 127.0.0.1, MAP {REBOUND} 127.0.0.1"
    with chromium([rules]) as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(300_000)
        yield context


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, fresh_workspace: Path) -> Iterator[House]:
    find_chromium()
    root = tmp_path_factory.mktemp("strangers")
    workspace = root / "workspace"
    shutil.copytree(fresh_workspace, workspace)
    gallery = workspace / "stages" / "gallery"
    gallery.mkdir(parents=True)
    (gallery / "index.html").write_text(GALLERY)
    (gallery / "one.png").write_bytes(base64.b64decode(PIXEL))
    (gallery / ".hidden").write_text("hidden")
    (gallery / "link.txt").symlink_to(gallery / ".hidden")
    (gallery / "out.txt").symlink_to(workspace / "prefect" / "auth")
    (workspace / "stages" / "bare").mkdir()
    (root / "datasets.yaml").write_text(
        "[{id: clips, dataset_type: video, instance_data_dir: .}, {id: text, dataset_type: text_embeds}]"
    )
    supervisor, _ = start_serving(workspace, root / "datasets.yaml")
    printed = workspace.with_suffix(".log").read_text()
    found = {
        name: re.search(rf"^{name} +(http\S+)", printed, re.M) for name in ("Prefect", "MLflow", "Galleries")
    }
    link, mlflow, files = (match.group(1) for match in found.values() if match)
    stranger = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    with api(workspace) as client:
        deployment = str(client.read_deployment_by_name("probe-media/probe-media").id)
    at = {"prefect": link.split("/ltx2")[0], "mlflow": mlflow.split("/#")[0], "files": files}
    yield House(workspace, link, at, stranger.server_port, deployment)
    stranger.shutdown()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(300) == 0


@pytest.fixture(scope="module")
def signed_in(house: House, browser_context: BrowserContext) -> Page:
    """The page that the printed link leads to."""
    page = browser_context.new_page()
    page.goto(house.sign_in)
    page.get_by_role("link", name="Deployments").first.wait_for(timeout=600_000)
    return page


READ = """async url => {
  try { const a = await fetch(url, {credentials: "include"}); return a.status + " " + await a.text(); }
  catch (error) { return "refused"; }
}"""
START = """async ([url, type, mode]) => {
  const body = JSON.stringify({name: "stranger"});
  const headers = type ? {"Content-Type": type} : {};
  try {
    const a = await fetch(url, {method: "POST", credentials: "include", mode, headers, body});
    return a.type == "opaque" ? "opaque" : String(a.status);
  } catch (error) { return "refused"; }
}"""
FORM = """async url => {
  const frame = document.createElement("iframe"); frame.name = "into"; document.body.append(frame);
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: "text/plain", target: "into"});
  const field = document.createElement("input");
  field.name = '{"name": "stranger", "rest": "'; field.value = '"}'; form.append(field);
  document.body.append(form);
  await new Promise(done => { frame.onload = done; setTimeout(done, 60000); form.submit(); });
}"""
EMBED = """url => new Promise(done => {
  const picture = new Image();
  picture.onload = () => done("shown"); picture.onerror = () => done("refused"); picture.src = url;
})"""

SOCKET = """url => new Promise(done => {
  const socket = new WebSocket(url.replace("http", "ws"), "prefect");
  socket.onopen = () => { done("open"); socket.close(); }; socket.onerror = () => done("refused");
})"""


@pytest.mark.parametrize("place", ["elsewhere", "another port", "a rebound name"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_page_of_another_origin_is_refused(
    server: str, place: str, house: House, signed_in: Page, browser_context: BrowserContext
) -> None:
    """Whatever it tries: to read, to start something, to send a form, to embed, to listen."""
    before = house.started()
    page = browser_context.new_page()
    statuses: list[int] = []
    page.goto(house.origins(server)[place])
    page.on("response", lambda answer: statuses.append(answer.status))
    base = house.at[server] if place != "a rebound name" else house.origins(server)[place].rstrip("/")
    target = {name: base + path for name, path in house.targets(server).items()}
    assert page.evaluate(READ, target["read"])[:7] in ("refused", "403 Ref")
    for kind, mode in (("application/json", "cors"), ("text/plain", "no-cors"), (None, "cors")):
        outcome = page.evaluate(START, [target["start"], kind, mode])
        assert outcome in ("refused", "403") or (outcome == "opaque" and statuses[-1] == 403), outcome
    statuses.clear()
    page.evaluate(FORM, target["start"])
    assert statuses[-1:] == [403]
    assert page.evaluate(EMBED, target["embed"]) == "refused"
    assert page.evaluate(SOCKET, target["socket"]) == "refused"
    assert set(statuses) <= {403}
    assert house.started() == before
    page.close()


@pytest.mark.parametrize("server", SERVERS)
def test_the_same_requests_are_answered_to_our_own_pages(
    server: str, house: House, signed_in: Page, browser_context: BrowserContext
) -> None:
    page = browser_context.new_page()
    page.goto(house.at[server] + ("/gallery/" if server == "files" else "/"))
    target = {name: house.at[server] + path for name, path in house.targets(server).items()}
    assert page.evaluate(READ, target["read"]).startswith("200 ")
    assert page.evaluate(EMBED, target["embed"]) == "shown"
    assert page.evaluate(SOCKET, target["socket"]) == ("open" if server == "prefect" else "refused")
    # And they tell nobody else what they see.
    leak = f"/leak-{server}"
    send = "url => fetch(url, {mode: 'no-cors'}).then(() => 'sent', () => 'refused')"
    assert page.evaluate(send, f"http://{STRANGER}:{house.stranger_port}{leak}") == "refused"
    assert leak not in Stranger.seen
    page.close()


@pytest.mark.parametrize("host", ["localhost:4200", "192.168.1.7:80", "[::1]:9999"])
def test_the_ui_asks_the_address_that_it_was_opened_by(host: str, house: House) -> None:
    settings = json.loads(house.ask(house.at["prefect"] + "/ui-settings", {"Host": host})[1])
    assert settings["api_url"] == f"http://{host}/api"
    assert settings["csrf_enabled"]
    assert settings["auth"] == "BASIC"


def test_programs_without_the_secret_are_refused(house: House) -> None:
    secret = find_secret(prefect_home(house.workspace))
    assert secret is not None
    cookie = "=".join(session_cookie(secret))
    api_path, files_path = "/api/admin/settings", house.targets("files")["read"]
    for server, path in (("prefect", api_path), ("mlflow", "/"), ("files", files_path)):
        url = house.at[server] + path
        assert house.ask(url, {})[0] == 401
        assert house.ask(url, {"Authorization": authorization("ltx2:guessed")})[0] == 401
        status, text = house.ask(url, {"Authorization": authorization(secret)})
        assert status == 200
        assert secret.split(":")[1] not in text
        assert house.ask(url, {"Cookie": cookie})[0] == (401 if server == "prefect" else 200)


def test_the_file_server_shows_nothing_hidden_and_no_lists(house: House) -> None:
    secret = find_secret(prefect_home(house.workspace)) or ""
    statuses = {
        path: house.ask(house.at["files"] + path, {"Authorization": authorization(secret)})[0]
        for path in (
            *("/gallery/one.png", "/gallery/", "/", "/bare/", "/gallery/.hidden", "/gallery/link.txt"),
            *("/gallery/out.txt", "/..%2fprefect/auth", "/%2e%2e/prefect/auth", "/gallery/%2ehidden"),
        )
    }
    assert [path for path, status in statuses.items() if status == 200] == ["/gallery/one.png", "/gallery/"]


def test_the_secret_is_on_no_command_line_and_in_no_log(house: House) -> None:
    import psutil

    secret = (find_secret(prefect_home(house.workspace)) or "").split(":")[1]
    assert (prefect_home(house.workspace) / "auth").stat().st_mode & 0o777 == 0o600
    assert not [p for p in psutil.process_iter(["cmdline"]) if secret in " ".join(p.info["cmdline"] or [])]
    logs = [*(house.workspace / "logs").iterdir(), house.workspace.with_suffix(".log")]
    assert logs
    assert not [log for log in logs if secret in log.read_text(errors="replace")]


def test_pages_and_gallery_links_open_after_the_link_and_the_link_works_once(
    house: House, signed_in: Page, browser_context: BrowserContext, tmp_path: Path
) -> None:
    gallery = f"{house.at['files']}/gallery/index.html"
    with api(house.workspace) as client:
        from prefect.client.schemas.actions import ArtifactCreate

        made = client.create_artifact(
            ArtifactCreate(key="gallery", type="markdown", data=f"[All of them]({gallery})")
        )
    signed_in.goto(f"{house.at['prefect']}/v2/artifacts/artifact/{made.id}")
    with browser_context.expect_page() as opened:
        signed_in.get_by_role("link", name="All of them").click(modifiers=["Control"])
    opened.value.get_by_text("All the pictures").wait_for()
    signed_in.goto(f"{house.at['prefect']}/v2/deployments")
    signed_in.get_by_text("train-ltx2").first.wait_for()
    signed_in.goto(house.at["mlflow"])
    signed_in.get_by_text("Experiments").first.wait_for()
    assert browser_context.browser is not None
    other = browser_context.browser.new_context()
    page = other.new_page()
    page.goto(house.sign_in)
    page.get_by_text("used already").wait_for()
    assert "#" not in page.url
    page.goto(gallery)
    assert "has not signed in" in page.content()
    other.close()
