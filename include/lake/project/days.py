"""Days, as text `yyyy-MM-dd` everywhere outside this file, and ranges of them, inclusive at both ends."""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from include.lake.errors import UsageError

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def parse_day(text: str) -> str:
    """`text`, if it is a day that exists; UsageError otherwise. What passes here is safe in SQL and in a path."""
    if isinstance(text, str) and _exists(text):
        return text
    raise UsageError(f"{text!r} is not a day: write it as yyyy-MM-dd, such as 2026-01-31")


@lru_cache(maxsize=10_000)  # a look asks for its days again and again
def _exists(day: str) -> bool:
    if not _DAY.fullmatch(day):
        return False
    try:
        return bool(date.fromisoformat(day))
    except ValueError:
        return False


def is_day(text: str) -> bool:
    """Is `text` a day that exists, written yyyy-MM-dd?"""
    return _exists(text)


def day_range(start: str, end: str) -> list[str]:
    """The days from `start` to `end`, both inclusive; UsageError if they are not days or upside down."""
    if start == end:  # as nearly always
        return [parse_day(start)]
    first, last = date.fromisoformat(parse_day(start)), date.fromisoformat(parse_day(end))
    if first > last:
        raise UsageError(f"the range is upside down: {start} is after {end}")
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def days_before(day: str, count: int) -> str:
    """The day `count` days before `day`."""
    return (date.fromisoformat(day) - timedelta(days=count)).isoformat()


def consecutive(days: list[str]) -> list[tuple[str, str]]:
    """Sorted days as ranges (first, last) without gaps: [1, 2, 4] gives [(1, 2), (4, 4)]."""
    ranges: list[tuple[str, str]] = []
    for day in days:
        if ranges and days_before(day, 1) == ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges


def day_start(day: str, timezone: str) -> datetime:
    """The instant (UTC) at which `day` begins in `timezone`, and the day before it is over.

    Where clocks are put forward over midnight, the day begins at that instant. Where midnight comes twice, its second
    time counts: the day before may go on until then. A day that a timezone skipped begins and ends at one instant.
    """
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(timezone))
    return max(midnight.replace(fold=fold).astimezone(UTC) for fold in (0, 1))


def last_finished_day(timezone: str, now: datetime | None = None) -> str:
    """The newest day that is over in `timezone`."""
    now = now or datetime.now(UTC)
    day = now.astimezone(ZoneInfo(timezone)).date().isoformat()
    while now < day_start(day, timezone):  # clocks are put back over a midnight: the day before goes on
        day = days_before(day, 1)
    return days_before(day, 1)
