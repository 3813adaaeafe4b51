"""One run at a time in a score root. A lock is a numbered object that is never deleted.

    <root>/lock/00000001.json   {"host", "pid", "beat", "released"}

The process with the highest number holds the lock until the object says `released`, or until the process stops
writing `beat`. Another process takes the lock by creating the next number, which only one process can (`O_EXCL` on
disk, `If-None-Match: *` on S3). A process may lose the lock, for example while its machine
sleeps; it finds the higher number when it checks the lock before publishing.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from cxrpipe import console, storage
from cxrpipe.errors import LockError, StoreError

BEAT_S = 20.0
STALE_S = 180.0
"""A lock is free after so long without a beat. Nine beats, so that a slow store costs no living run its lock."""
LOOK_EVERY_S = 5.0
"""How often a process that waits for the lock looks again."""


class Lock:
    """A held lock. Check it before anything is published."""

    def __init__(self, root: str, number: int) -> None:
        self._root, self._number = root, number
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raise LockError where another run has taken over."""
        if _highest(self._root) != self._number:
            raise LockError(f"{self._root}: another run has taken over the lock; this one publishes nothing")

    def release(self) -> None:
        self._ended.set()
        self._heart.join()
        storage.write(_place(self._root, self._number), _state(released=True))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(StoreError, OSError):  # the next beat tries again, and `check` decides
                storage.write(_place(self._root, self._number), _state(released=False))


@contextlib.contextmanager
def locked(root: str, wait_s: float = 0.0) -> Iterator[Lock]:
    """Hold the lock of a score root. LockError where another run still holds it after `wait_s` seconds."""
    lock = Lock(root, _take_within(root, wait_s))
    try:
        yield lock
    finally:
        lock.release()


def _take_within(root: str, wait_s: float) -> int:
    """Take the lock; its number. While another run holds the lock, say so once and look again until the time is up."""
    end = time.monotonic() + wait_s
    said = False
    while True:
        try:
            return _take(root)
        except LockError as error:
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise
            if not said:
                console.log(f"{error}. Waiting up to {wait_s:g} s for it")
                said = True
        time.sleep(min(LOOK_EVERY_S, left_s))


def _take(root: str) -> int:
    number = _highest(root)
    if number:
        lock = json.loads(storage.read(_place(root, number)))
        if not _is_over(lock):
            raise LockError(
                f"{root}: held by another run (process {lock['pid']} on {lock['host']}); "
                f"wait for it, or if it is gone, for {STALE_S:.0f} s"
            )
    if not storage.write_new(_place(root, number + 1), _state(released=False)):
        raise LockError(f"{root}: another run took the lock just now; wait for it")
    return number + 1


def _is_over(lock: dict[str, Any]) -> bool:
    """Whether a lock is released, its beats have stopped, or its process ran on this machine and is gone."""
    if lock["released"] or time.time() - lock["beat"] > STALE_S:
        return True
    return lock["host"] == socket.gethostname() and not _is_alive(lock["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _highest(root: str) -> int:
    names = (entry.url.rpartition("/")[2] for entry in storage.listing(storage.join(root, "lock")))
    return max((int(name.removesuffix(".json")) for name in names if name.endswith(".json")), default=0)


def _place(root: str, number: int) -> str:
    return storage.join(root, "lock", f"{number:08}.json")


def _state(released: bool) -> bytes:
    state = {"host": socket.gethostname(), "pid": os.getpid(), "beat": time.time(), "released": released}
    return json.dumps(state).encode()
