"""The time of the sample: ms since epoch (UTC), and day numbers. A day begins at midnight in Korea."""

from datetime import date

import numpy as np

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
YEAR = 365 * DAY
KST = 9 * HOUR
# A time that never comes. It is after every day, and additions to it do not overflow.
NEVER = 2**60


def day_number(day: str) -> int:
    return date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()


def midnight(day: int | str) -> int:
    """The instant at which a day begins."""
    return (day_number(day) if isinstance(day, str) else day) * DAY - KST


def near_midnight(rng: np.random.Generator, times: np.ndarray, share: float) -> np.ndarray:
    """Move a share of the times close to a midnight, because many bugs are about midnight."""
    around = (times + KST) // DAY * DAY - KST + rng.normal(0, 20 * MINUTE, times.size).astype(np.int64)
    return np.where(rng.random(times.size) < share, around, times)
