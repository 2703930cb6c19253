import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.child_process import ROOT, describe_exit, start_child

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(condition: object, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@linux_only
def test_the_child_of_a_killed_parent_dies(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from flows.child_process import start_child\n"
        "child = start_child(['sleep', '100'], os.environ)\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(f'{{child.pid}} ')\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    pid_file = tmp_path / "pid"
    until(lambda: pid_file.exists() and pid_file.read_text().endswith(" "))
    child = int(pid_file.read_text())
    until(lambda: b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0])
    parent.kill()
    parent.wait()
    until(lambda: gone(child))


def test_the_command_has_default_signals_its_environment_and_its_own_session(tmp_path: Path) -> None:
    code = (
        "import os, signal; print(os.environ['MARK'], os.getsid(0) == os.getpid(),"
        " signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,"
        " signal.getsignal(signal.SIGINT) == signal.default_int_handler)"
    )
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with (tmp_path / "log").open("wb") as log:
            child = start_child([sys.executable, "-c", code], {**os.environ, "MARK": "x"}, log=log)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert child.wait(120) == 0
    assert (tmp_path / "log").read_text() == "x True True True\n"


def test_how_a_process_ended_is_described() -> None:
    assert describe_exit(3) == "exited with status 3"
    assert describe_exit(-9) == "was killed by SIGKILL (often the system, out of memory)"
    assert describe_exit(-15) == "was killed by SIGTERM"
