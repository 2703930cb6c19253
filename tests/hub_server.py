"""A Hugging Face hub on this machine: the requests of an upload, answered from memory by a real HTTP server.

Written after what huggingface_hub sends and reads. Faults are asked for by `fail`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_FILES = (".safetensors", ".mp4", ".png")


@dataclass
class Repository:
    """Files and commits of one repository."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Fault:
    """What happens to the next requests of a method and path, and to how many."""

    match: str
    status: int
    times: int
    message: str = ""
    page: str = ""
    """Answer with this text, which is not JSON."""
    stall_s: float = 0.0
    """Answer only after this long, with what the hub says otherwise."""


class FakeHub:
    """The state of the hub: who the token is, what there is, and what was asked."""

    def __init__(self) -> None:
        self.account: dict[str, Any] = {
            "name": "me",
            "orgs": [{"name": "club", "roleInOrg": "write"}, {"name": "library", "roleInOrg": "read"}],
            "auth": {"accessToken": {"displayName": "laptop", "role": "write"}},
        }
        self.token = "hf_secretsecretsecret"
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.read_only: set[str] = set()
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.url = ""

    def fail(self, match: str, status: int = 500, times: int = 1, **more: Any) -> None:
        """Let requests that `match` (a regular expression of `METHOD /path`) fail."""
        self.faults.append(Fault(match, status, times, **more))

    def count(self, match: str) -> int:
        """How many requests there were that match."""
        return sum(re.search(match, request) is not None for request in self.requests)

    def fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.search(fault.match, request):
                fault.times -= 1
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        self.hub.requests.append(request)
        fault = self.hub.fault(request)
        if fault is not None and fault.stall_s:
            time.sleep(fault.stall_s)
        elif fault is not None:
            refusal = {"error": fault.message or "a fault was asked for"}
            self.answer(fault.status, refusal, fault.page)
            return
        storage = path.startswith("/storage/")
        if not storage and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
            return
        for pattern, answer in ROUTES.items():
            if found := re.fullmatch(pattern, request):
                answer(self, body, *found.groups())
                return
        self.answer(404, {"error": f"the fake hub does not know {request}"})
        return

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, data: Any, page: str = "") -> None:
        text = (page or json.dumps(data)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        if status >= 400:
            self.send_header("X-Error-Message", str(data.get("error", "")))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests read `requests`."""

    # What the hub answers.

    def whoami(self, body: bytes) -> None:
        self.answer(200, self.hub.account)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or self.hub.account['name']}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            self.answer(409, {"error": "You already created this model repo", **url})
            return
        self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        self.answer(200, url)

    def info(self, body: bytes, name: str) -> None:
        repo = self.hub.repositories.get(name)
        if repo is None:
            self.answer(404, {"error": "Repository not found"})
            return
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": git_hash(content), **lfs_info(path, content)}
            for path, content in repo.files.items()
        ]
        self.answer(
            200, {"id": name, "modelId": name, "sha": repo.sha, "private": repo.private, "siblings": siblings}
        )

    def tree(self, body: bytes, name: str, revision: str) -> None:
        files = self.hub.repositories[name].files
        self.answer(
            200,
            [
                {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                for path, content in files.items()
            ],
        )

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        """A file, or what there is to say of it."""
        repo = self.hub.repositories.get(name)
        content = None if repo is None else repo.files.get(path)
        if repo is None or content is None:
            self.answer(404, {"error": "Entry not found"})
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", repo.sha)
        self.send_header("ETag", f'"{oid(path, content)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def may_write(self, body: bytes, name: str) -> None:
        if name in self.hub.read_only:
            self.answer(403, {"error": "You have read access only"})
            return
        self.answer(200, {})

    def validate(self, body: bytes) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str) -> None:
        files = self.hub.repositories[name].files
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_FILES) else "regular",
                "shouldIgnore": False,
                "oid": oid(file["path"], files[file["path"]]) if file["path"] in files else None,
            }
            for file in json.loads(body)["files"]
        ]
        self.answer(200, {"files": modes})

    def batch(self, body: bytes, name: str) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/storage/{asked['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify"},
            }
            known = asked["oid"] in self.hub.objects
            objects.append({**asked, **({} if known else {"actions": actions})})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, name: str) -> None:
        if hashlib.sha256(body).hexdigest() != name:
            self.answer(400, {"error": "the content is not what was announced"})
            return
        self.hub.objects[name] = body
        self.answer(200, {})

    def verify(self, body: bytes) -> None:
        asked = json.loads(body)
        whole = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        self.answer(200 if whole else 404, {})

    def commit(self, body: bytes, name: str) -> None:
        if name in self.hub.read_only:
            self.answer(403, {"error": "You have read access only"})
            return
        repo, lines = self.hub.repositories[name], [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repo.commits.append(value["summary"])
            elif line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del repo.files[value["path"]]
        url = f"{self.hub.url}/{name}/commit/{repo.sha}"
        self.answer(200, {"commitUrl": url, "commitOid": repo.sha, "pullRequestUrl": None})


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LFS_FILES) else git_hash(content)


def lfs_info(path: str, content: bytes) -> dict[str, Any]:
    if not path.endswith(LFS_FILES):
        return {}
    return {"lfs": {"sha256": oid(path, content), "size": len(content), "pointerSize": 134}}


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: dict[str, Callable[..., None]] = {
    r"GET /api/whoami-v2": Handler.whoami,
    r"POST /api/repos/create": Handler.create,
    rf"GET /api/models/{NAME}": Handler.info,
    rf"GET /api/models/{NAME}/revision/[\w.-]+": Handler.info,
    rf"GET /api/models/{NAME}/tree/([\w.-]+)": Handler.tree,
    rf"(?:GET|HEAD) /{NAME}/resolve/([\w.-]+)/(.+)": Handler.resolve,
    rf"GET /api/models/{NAME}/auth-check/write": Handler.may_write,
    r"POST /api/validate-yaml": Handler.validate,
    rf"POST /api/models/{NAME}/preupload/main": Handler.preupload,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /storage/(\w+)": Handler.store,
    r"POST /verify": Handler.verify,
    rf"POST /api/models/{NAME}/commit/main": Handler.commit,
}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """The hub, for as long as the context is open."""
    hub = FakeHub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
