"""Child processes that cannot outlive the one that started them, not even when it is killed with -9.

Run as `python -m flows.child_process PARENT_PID SIGNAL COMMAND...`: asks the kernel for the signal on the
parent's death and becomes COMMAND. The request survives exec, so no preexec_fn runs in a process that
has threads. On systems without prctl (macOS) the command runs without that request; the ordinary ways to
stop it are the same there.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
ROOT: Final = Path(__file__).resolve().parent.parent


def python_path() -> str:
    """PYTHONPATH for a child: this repository first, then what the user has set."""
    return os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)


def bound_to_this_process(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """The command line that runs `command` and sends it `death_signal` when this process dies."""
    script = str(Path(__file__).resolve())
    # -I -S: this step only execs, so it needs neither site-packages nor the user's PYTHON variables.
    return [sys.executable, "-I", "-S", script, str(os.getpid()), str(int(death_signal)), *command]


def start_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    log: IO[bytes] | None = None,
    cwd: str | Path | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child that dies with this process. Its session is its own: a Ctrl-C reaches it only through us.

    `environment` is the whole environment. Must be called in the main thread, or in one that lives as
    long as the child should: the kernel counts the death of the *thread* that started the child.
    """
    return subprocess.Popen(
        bound_to_this_process(command, death_signal),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT if log is not None else None,
        cwd=cwd,
        start_new_session=True,
        pass_fds=keep_open,
    )


def describe_exit(code: int) -> str:
    """How a process ended, in words: `exited with status 3`, `was killed by SIGKILL (...)`."""
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name
    hint = " (often the system, out of memory)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def end_with(parent: int, death_signal: int) -> None:
    """Ask the kernel for the signal on the death of the parent; exit where it is dead already."""
    # A parent that was started by `nohup ... &` leaves these ignored, and an ignored SIGINT makes a
    # Prefect worker unstoppable.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that wanted this one is gone")


@contextmanager
def uncollected() -> Iterator[None]:
    """Import in this block without garbage collection, which would find nothing and take a fifth of the time.

    Afterwards collections leave it alone, and in a forked process do not write to its pages.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def run_and_end(work: Callable[[], object]) -> NoReturn:
    """Do what this process is for, and end it as Python does, but with its objects in place.

    To take the libraries apart costs half a second without torch and 2.4 s with it, and in a forked process
    it writes to every page that is shared.
    """
    code: object = 0
    try:
        work()
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - nobody is above
        sys.excepthook(*sys.exc_info())
        code = 1
    # In Python's own order: threads that are waited for, what was registered for the end, the streams.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def _become(parent: int, death_signal: int, command: list[str]) -> None:
    end_with(parent, death_signal)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
