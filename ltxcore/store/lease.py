"""One writer at a time on an object store, which has no locks: leases, numbered and created exclusively.

A lease is an object `locks/NAME/NUMBER.json` that its holder rewrites every few seconds. Whoever wants it
creates the next number, which an object store grants to one of several (If-None-Match); it may do so once
the newest lease says `released`, or has stood still for as long as it lasts, by the waiter's own clock:
clocks are never compared. Older numbers are then deleted.

A holder that was suspended for longer may wake up beside its successor. It cannot do harm: rows and index
segments are created exclusively too, so that its commit fails (`Overtaken`), and `renew` says that it has
been succeeded.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ltxcore.store.blobs import Blobs
from ltxcore.store.locks import UNKNOWN_HOLDER, OnWait, StoreBusy, describe_holder, exclusive

_FIELDS = ("holder", "token", "beats", "released", "lease_s")
LEASE_S = 60.0
POLL_S = 1.0


class LeaseLost(RuntimeError):
    """Another process holds the lease now, or this one could not renew it in time."""


class NotExclusive(RuntimeError):
    """The store overwrites where it was asked to create, so that writers cannot be kept apart."""


@contextmanager
def writing(
    blobs: Blobs,
    name: str,
    purpose: str,
    *,
    wait_s: float | None = None,
    on_wait: OnWait | None = None,
    lease_s: float = LEASE_S,
) -> Iterator[None]:
    """Be the one writer of a part of a store (`latents`, `text`, `audio`, `media`, `refs`).

    Args:
        purpose: what the holder does, shown to waiting processes.
        wait_s: how long to wait for another holder, in seconds; None: for as long as it lives.
        on_wait: called with the holder's description, once for each holder.
        lease_s: on a remote store, after how many seconds without a sign a holder counts as dead.

    Raises:
        StoreBusy: another process held it for longer than `wait_s`.
        NotExclusive: the remote store knows no conditional writes.
        LeaseLost: at the end: the lease went to another process while the body ran.
    """
    if blobs.local is not None:
        with exclusive(blobs.local / "locks" / name, purpose, wait_s, on_wait):
            yield
        return
    lease = _acquire(blobs, name, purpose, wait_s, on_wait, lease_s)
    stop = threading.Event()
    renewer = threading.Thread(target=lease.keep, args=(stop,), name=f"lease {name}", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        lease.release()
    if lease.lost is not None:
        raise LeaseLost(lease.lost)


class Lease:
    """A lease that this process holds."""

    def __init__(self, blobs: Blobs, folder: str, number: int, purpose: str, lease_s: float) -> None:
        self._blobs, self._folder, self._number, self._lease_s = blobs, folder, number, lease_s
        self._token, self._holder, self._beats = uuid.uuid4().hex, describe_holder(purpose), 0
        self.lost: str | None = None
        """Why it is not held any more."""

    def create(self) -> None:
        """Take the number.

        Raises:
            FileExistsError: another process has it.
            NotExclusive: the store would let any number of processes have it.
        """
        name = _name(self._folder, self._number)
        self._blobs.create(name, self._text())
        try:
            self._blobs.create(name, b"{}")
        except FileExistsError:
            return
        self._blobs.delete([name])
        if _newest(self._blobs, self._folder) > self._number:
            # It was suspended between the two, and others have taken later numbers and deleted this one.
            raise FileExistsError(name)
        raise NotExclusive(
            f"{self._blobs.url} overwrites objects where it is asked to create them (If-None-Match: *), so "
            "that two writers cannot be kept apart; use a store that knows conditional writes, as S3 does"
        )

    def keep(self, stop: threading.Event) -> None:
        """Renew until asked to stop; ends early when the lease is lost."""
        renewed = time.monotonic()
        while not stop.wait(self._lease_s / 4) and self.lost is None:
            try:
                self._renew()
                renewed = time.monotonic()
            except OSError as error:
                # A store that is away for a moment is no reason to stop; one that stays away is.
                if time.monotonic() - renewed > self._lease_s:
                    self.lost = f"{self._folder} in {self._blobs.url} could not be renewed: {error}"

    def _renew(self) -> None:
        newest = _newest(self._blobs, self._folder)
        if newest != self._number:
            self.lost = f"{self._folder} in {self._blobs.url} was taken over: it was not renewed in time"
            return
        self._beats += 1
        self._blobs.write(_name(self._folder, self._number), self._text())

    def release(self) -> None:
        """Say that the next may have it."""
        if self.lost is None:
            self._blobs.write(_name(self._folder, self._number), self._text(released=True))

    def _text(self, released: bool = False) -> bytes:
        state = {
            "holder": self._holder,
            "token": self._token,
            "beats": self._beats,
            "released": released,
            "lease_s": self._lease_s,
        }
        return json.dumps(state).encode()


def _acquire(
    blobs: Blobs, name: str, purpose: str, wait_s: float | None, on_wait: OnWait | None, lease_s: float
) -> Lease:
    folder = f"locks/{name}"
    began = time.monotonic()
    named: str | None = None
    seen: tuple[int, Any] | None = None
    still_since = began
    while True:
        newest = _newest(blobs, folder)
        state = _state(blobs, folder, newest, lease_s)
        now = time.monotonic()
        if (newest, state) != seen:
            seen, still_since = (newest, state), now
        if state is None or state["released"] or now - still_since > state["lease_s"]:
            lease = Lease(blobs, folder, newest + 1, purpose, lease_s)
            try:
                lease.create()
            except FileExistsError:
                continue  # Another one was faster; wait for it.
            blobs.delete([n for n in blobs.list(folder) if _number(n) <= newest])
            return lease
        if state["holder"] != named and on_wait is not None:
            on_wait(state["holder"])
        named = state["holder"]
        if wait_s is not None and now - began > wait_s:
            raise StoreBusy(f"{blobs.url} is being written by {named}; waited {wait_s:.0f} s")
        time.sleep(min(POLL_S, lease_s / 4))


def _state(blobs: Blobs, folder: str, number: int, lease_s: float) -> dict[str, Any] | None:
    """What a lease says; None where there is none of that number (any more).

    One that a crash has left empty or cut says nothing: it is waited for as one whose holder is silent.
    """
    if number == 0:
        return None
    try:
        data = blobs.read(_name(folder, number))
    except FileNotFoundError:
        return None
    try:
        state: dict[str, Any] = json.loads(data)
        return {name: state[name] for name in _FIELDS}
    except (ValueError, TypeError, KeyError):
        return {**dict.fromkeys(_FIELDS), "holder": UNKNOWN_HOLDER, "released": False, "lease_s": lease_s}


def _newest(blobs: Blobs, folder: str) -> int:
    return max((_number(name) for name in blobs.list(folder)), default=0)


def _name(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"


def _number(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))
