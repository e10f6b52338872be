"""Waiting for a lock that another process holds: never for ever, and never without a word."""

import errno
import time
from collections.abc import Callable

from include.lake.errors import LakeError

_LOOK_SECONDS = 0.1
# How flock and fcntl say that another process holds the lock. Any other error stays: waiting does not cure it.
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def take(lock: Callable[[], None], what: str, seconds: float, waiting: Callable[[], None] = lambda: None) -> None:
    """Take a lock with `lock`, which raises OSError while others hold it; LakeError after `seconds`.

    `what` names the holder, such as `another backfill`. `waiting` is called once if another process holds the lock.
    A system that cannot lock at all is a LakeError at once.
    """
    began, is_told = time.monotonic(), False
    while True:
        try:
            return lock()
        except OSError as error:
            if error.errno not in _HELD:
                raise LakeError(
                    f"the system cannot lock out {what} ({error.strerror or error}): "
                    "set LAKE_HOME to a folder of a file system with locks, such as a local disk"
                ) from None
            if not is_told:
                waiting()
                is_told = True
            if time.monotonic() - began > seconds:
                raise LakeError(
                    f"waited {seconds:,.0f} s for {what}: it hangs, or it needs more time; try again"
                ) from None
            time.sleep(_LOOK_SECONDS)
