"""Child processes that cannot outlive the one that started them, not even when it is killed with -9.

Run as `python -m flows.leash PARENT_PID SIGNAL COMMAND...`: asks the kernel for the signal on the
parent's death and becomes COMMAND. The request survives exec, so no preexec_fn runs in a process that
has threads. On systems without prctl (macOS) the command runs unleashed; the ordinary ways to stop it
are the same there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

PR_SET_PDEATHSIG: Final = 1
ROOT: Final = Path(__file__).resolve().parent.parent


def python_path() -> str:
    """PYTHONPATH for a child: this repository first, then what the user has set."""
    return os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)


def leashed(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """The command line that runs `command` and sends it `death_signal` when this process dies."""
    script = str(Path(__file__).resolve())
    # -I -S: this step only execs, so it needs neither site-packages nor the user's PYTHON variables.
    return [sys.executable, "-I", "-S", script, str(os.getpid()), str(int(death_signal)), *command]


def start_leashed(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    log: IO[bytes] | None = None,
    cwd: str | Path | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a leashed child in a session of its own, so that a Ctrl-C reaches it only through us.

    `environment` is the whole environment. Must be called in the main thread, or in one that lives as
    long as the child should: the kernel counts the death of the *thread* that started the child.
    """
    return subprocess.Popen(
        leashed(command, death_signal),
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


def _become(parent: int, death_signal: int, command: list[str]) -> None:
    # A parent that was started by `nohup ... &` leaves these ignored, and an ignored SIGINT makes a
    # Prefect worker unstoppable.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that wanted {command[0]} is gone")
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
