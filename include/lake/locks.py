"""Waiting for a lock that another process holds: never for ever, and never without a word."""

import time
from collections.abc import Callable

from include.lake.errors import LakeError

_LOOK_SECONDS = 0.1


def take(lock: Callable[[], None], what: str, seconds: float, waiting: Callable[[], None] = lambda: None) -> None:
    """Take a lock with `lock`, which raises OSError while others hold it; LakeError after `seconds`.

    `what` is waited for, in words that begin with a noun; `waiting` is called once if there is anything to wait for.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            return lock()
        except OSError:
            if not told:
                waiting()
                told = True
            if time.monotonic() - began > seconds:
                raise LakeError(
                    f"waited {seconds:,.0f} s for {what}: it hangs, or it needs more time; try again"
                ) from None
            time.sleep(_LOOK_SECONDS)
