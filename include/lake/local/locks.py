"""Locks that another process holds: wait for one, with a time limit and a message, or say who holds it."""

import errno
import fcntl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from include.lake.errors import LakeError

_LOOK_SECONDS = 0.1
# flock and fcntl raise these errors if another process holds the lock. Waiting does not cure any other error.
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def take(lock: Callable[[], None], what: str, seconds: float, waiting: Callable[[], None] = lambda: None) -> None:
    """Take a lock with `lock`, which raises OSError while another process holds it. LakeError after `seconds`.

    `what` names the holder, such as `another backfill`. `waiting` is called once if another process holds the lock.
    If the file system cannot lock at all, it raises LakeError at once.
    """
    began, is_announced = time.monotonic(), False
    while True:
        try:
            return lock()
        except OSError as error:
            if error.errno not in _HELD:
                raise LakeError(
                    f"the system cannot lock out {what} ({error.strerror or error}): "
                    "set LAKE_HOME to a folder of a file system with locks, such as a local disk"
                ) from None
            if not is_announced:
                waiting()
                is_announced = True
            if time.monotonic() - began > seconds:
                raise LakeError(
                    f"waited {seconds:,.0f} s for {what}: it hangs, or it needs more time; try again"
                ) from None
            time.sleep(_LOOK_SECONDS)


def holder(path: Path) -> str | None:
    """What the process that holds the lock of a file wrote into it; None if nobody holds it."""
    with suppress(FileNotFoundError), open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip()
    return None
