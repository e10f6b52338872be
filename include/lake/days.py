"""Days, as text `yyyy-MM-dd` everywhere outside this file, and ranges of them, inclusive at both ends."""

import re
from datetime import date, datetime, timedelta
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


def last_finished_day(timezone: str, now: datetime | None = None) -> str:
    """The newest day that is over in `timezone`."""
    local = now.astimezone(ZoneInfo(timezone)) if now else datetime.now(ZoneInfo(timezone))
    return days_before(local.date().isoformat(), 1)
