"""Wait for a condition: with a time limit, and with messages."""

import time
from collections.abc import Callable
from typing import TypeVar

from include.lake.errors import LakeError

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    seconds: float,
    what: str,
    *,
    pause: float = 0.2,
    waiting: Callable[[str], object] = lambda line: None,
    cure: Callable[[], str] = lambda: "it hangs, or it needs more time; try again",
) -> T:
    """The first true answer of `condition`; LakeError with the cure after `seconds`.

    `waiting` is called after each false answer. It may print a line, or raise if it is useless to wait.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        waiting(f"waiting for {what}")
        if time.monotonic() > deadline:
            raise LakeError(f"waited {seconds:,.0f} s for {what}: {cure()}")
        time.sleep(pause)
    return answer
