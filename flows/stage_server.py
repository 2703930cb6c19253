"""A process that has the large libraries imported, and forks one stage after another.

A stage that loads models pays some seven seconds of processor time for imports; forked, it has them already.
It is a process of its own all the same: own memory, own session, own log, own end. Linux only.

Run as `python -m flows.stage_server DESCRIPTOR`, the descriptor of a socket to its parent. Or it is forked by
a process that has Prefect and the flows imported (`serve_forked`), and then the large libraries come while
the first stage, which needs none of them, is at work. What forks safely has one thread, no CUDA, no open
database, socket or lock: where `check_forkable` finds otherwise, this process ends, and its parent starts
every stage as a fresh process.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import socket
import struct
import sys
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from flows.child_process import end_with, run_and_end, uncollected
from ltxcore.memory.threads import VARIABLES

PRELOADED: Final = (
    "prefect.engine",
    "flows.train",
    "torch",
    "torchaudio",
    "diffusers.models.transformers.transformer_ltx2",
    "diffusers.pipelines.ltx2",
    "transformers.models.gemma3.modeling_gemma3",
    "peft",
    "zarr",
    "ltxcore.training.loop",
    "ltxcore.validation.render",
)
ENVIRONMENT: Final = {
    # Their pools of threads would begin with the import.
    **dict.fromkeys(VARIABLES, "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # The driver itself cannot be taken across a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Variables under which the imports leave one thread and no CUDA; a stage has its own."""
HEADER: Final = struct.Struct("!I")
READY: Final = "ready"


class NotForkable(RuntimeError):
    """This process has what a fork must not copy."""


def preload(*ours: int) -> None:
    """Import the libraries, and see that this process can still be forked.

    Args:
        ours: file descriptors that are open on purpose.

    Raises:
        NotForkable: it cannot.
    """
    with uncollected():
        for name in PRELOADED:
            import_module(name)
    check_forkable(*ours)


def check_forkable(*ours: int) -> None:
    """See in /proc that a child would start clean.

    Args:
        ours: file descriptors that are open on purpose, such as the socket to the parent.

    Raises:
        NotForkable: there are several threads, the CUDA driver is loaded, or something is open beside the
            standard streams and `ours`.
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise NotForkable(f"imports have started {threads - 1} threads")
    if "libcuda.so" in Path("/proc/self/maps").read_text(encoding="utf-8"):
        raise NotForkable("imports have loaded the CUDA driver")
    for file in Path("/proc/self/fd").iterdir():
        # A link that leads nowhere is that of the listing itself.
        if int(file.name) not in (0, 1, 2, *ours) and os.path.lexists(file):
            raise NotForkable(f"imports have left {file.readlink()} open")


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message of the parent and the files that came with it; None once it is gone."""
    head, files, _, _ = socket.recv_fds(sock, HEADER.size, 1)
    if not head:
        return None
    (size,) = HEADER.unpack(head)
    body = b""
    while len(body) < size:
        part = sock.recv(size - len(body))
        if not part:
            return None
        body += part
    return json.loads(body), files


def say(sock: socket.socket, **message: Any) -> None:
    """One line of JSON to the parent."""
    sock.sendall(json.dumps(message).encode() + b"\n")


def serve(sock: socket.socket, ready: bool) -> NoReturn:
    """Fork a process for each message and report how it ended, until the parent is gone.

    Args:
        sock: to the parent.
        ready: whether the libraries are imported. Otherwise they are before a stage that computes, or
            while one that does not is at work.
    """
    while (message := receive(sock)) is not None:
        request, files = message
        if request["computes"] and not ready:
            _preload_as(request, sock.fileno(), *files)
            ready = True
        server = os.getpid()
        child = os.fork()
        if child == 0:
            _become(request, files, server, sock)
            run_and_end(partial(runpy.run_module, request["module"], run_name="__main__", alter_sys=True))
        for file in files:
            os.close(file)
        if not ready:
            ready = _is_preloaded(request, sock.fileno())
        _, status = os.waitpid(child, 0)
        try:
            say(sock, status=os.waitstatus_to_exitcode(status))
        except BrokenPipeError:
            break
        if not ready:
            break
    os._exit(0)


def _is_preloaded(request: dict[str, Any], *ours: int) -> bool:
    """Import the libraries while a stage is at work, which does not mind if they cannot be."""
    try:
        _preload_as(request, *ours)
    except (NotForkable, ImportError):
        traceback.print_exc()
        return False
    return True


def _preload_as(request: dict[str, Any], *ours: int) -> None:
    """Import the libraries under the environment of a stage, but for what would start threads."""
    os.environ.update(request["environment"])
    os.environ.update(ENVIRONMENT)
    preload(*ours)


def _become(request: dict[str, Any], files: list[int], server: int, sock: socket.socket) -> None:
    """Be what a fresh process would be: session, signals, streams, directory, environment, chance."""
    os.setsid()
    end_with(server, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file in files:
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["module"], *request["arguments"]]
    # Python's and numpy's global states of chance: two forks would share them.
    random.seed()
    import numpy

    numpy.random.seed()
    # Only now: whoever knows the pid may signal the whole session.
    say(sock, pid=os.getpid())
    sock.close()


def serve_forked(sock: socket.socket, parent: int) -> NoReturn:
    """Be the server, in a process that was just forked and has one thread.

    Args:
        sock: to the parent.
        parent: the process whose end is the end of this one.
    """
    os.setsid()
    end_with(parent, signal.SIGTERM)
    serve(sock, ready=False)


def main(descriptor: int) -> None:
    """Import, say that this process is ready, and fork until the parent is gone."""
    sock = socket.socket(fileno=descriptor)
    preload(descriptor)
    say(sock, state=READY)
    serve(sock, ready=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
