"""Periods: what a partition stands for. A day, a week that begins on Monday, or a month; ranges are inclusive."""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Literal, get_args

from include.lake.errors import UsageError
from include.lake.project.days import day_range, last_finished_day, parse_day
from include.lake.words import counted, span

Grain = Literal["day", "week", "month"]
GRAINS: tuple[Grain, ...] = get_args(Grain)

# A message shows so many ranges of partitions.
SHOWN = 5

_MONTH = re.compile(r"\d{4}-\d{2}")


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """One period. `text` is its partition key: the day, the Monday of the week, or yyyy-MM.

    `parse` and `of` check what they get; the constructor does not, so that plans of many periods are made quickly.
    """

    grain: Grain
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, grain: Grain, text: str) -> "Period":
        """The period with this key; UsageError with the cure otherwise. Its text is safe in SQL and in a path."""
        if grain == "month":
            if not (isinstance(text, str) and _MONTH.fullmatch(text) and _is_day(f"{text}-01")):
                raise UsageError(f"{text!r} is not a month: write it as yyyy-MM, such as 2026-01")
            return cls(grain, text)
        if grain == "week" and not _is_day(text):
            raise UsageError(f"{text!r} is not a week: write its Monday as yyyy-MM-dd, such as 2026-01-05")
        period = cls.of(grain, text)
        if period.text != text:
            weekday = date.fromisoformat(text).strftime("%A")
            raise UsageError(f"{text} is a {weekday}: a week is named by its Monday, here {period}")
        return period

    @classmethod
    def of(cls, grain: Grain, day: str) -> "Period":
        """The period that the day is in."""
        first = date.fromisoformat(parse_day(day))
        return cls._numbered(grain, first.year * 12 + first.month - 1 if grain == "month" else _count(grain, first))

    @classmethod
    def range(cls, first: "Period", last: "Period") -> list["Period"]:
        """The periods from `first` to `last`, both included; UsageError if they are upside down."""
        if first.grain != last.grain:
            raise UsageError(f"a range has one grain: {first} is a {first.grain} and {last} is a {last.grain}")
        if first > last:
            raise UsageError(f"the range is upside down: {first} is after {last}")
        return [cls._numbered(first.grain, number) for number in range(first._number, last._number + 1)]

    @classmethod
    def newest_over(cls, grain: Grain, zone: str, now: datetime | None = None) -> "Period":
        """The newest period that is over in the timezone."""
        day = last_finished_day(zone, now)
        period = cls.of(grain, day)
        return period if period.last_day == day else period.before(1)

    def before(self, count: int) -> "Period":
        """The period `count` periods before this one."""
        return self._numbered(self.grain, self._number - count)

    def after(self, count: int) -> "Period":
        """The period `count` periods after this one."""
        return self._numbered(self.grain, self._number + count)

    @property
    def first_day(self) -> str:
        return f"{self.text}-01" if self.grain == "month" else self.text

    @property
    def last_day(self) -> str:
        if self.grain == "day":
            return self.text
        first = date.fromisoformat(self.first_day)
        length = 7 if self.grain == "week" else monthrange(first.year, first.month)[1]
        return (first + timedelta(days=length - 1)).isoformat()

    @property
    def days(self) -> list[str]:
        return day_range(self.first_day, self.last_day)

    def is_over(self, zone: str, now: datetime | None = None) -> bool:
        """Has the last day of the period ended in the timezone?"""
        return self.last_day <= last_finished_day(zone, now)

    @property
    def _number(self) -> int:
        """Periods of one grain are numbered without gaps."""
        if self.grain == "month":
            return int(self.text[:4]) * 12 + int(self.text[5:]) - 1
        return _count(self.grain, date.fromisoformat(self.text))

    @classmethod
    def _numbered(cls, grain: Grain, number: int) -> "Period":
        try:
            if grain == "month":
                return cls(grain, date(number // 12, number % 12 + 1, 1).isoformat()[:7])
            if grain == "day":
                return cls(grain, date.fromordinal(number).isoformat())
            # Day number 1 is a Monday. A week that does not end before the year 10000 is none.
            sunday = date.fromordinal(number * 7 + 7)
            return cls(grain, (sunday - timedelta(days=6)).isoformat())
        except (ValueError, OverflowError):
            raise UsageError(f"there is no such {grain}: days go from 0001-01-01 to 9999-12-31") from None


@lru_cache(maxsize=50_000)  # a look asks for the same partitions of each of its tables
def read_of(grain: Grain, partition: str, of: Grain, earlier: int = 0) -> tuple[str, ...]:
    """The partitions of an input of grain `of` that a build of a partition reads, oldest first.

    They are those that share a day with it, and the `earlier` ones before them.
    """
    if grain == of == "day" and not earlier:  # as nearly always
        return (partition,)
    period = Period(grain, partition)
    first = Period.of(of, period.first_day).before(earlier)
    return tuple(one.text for one in Period.range(first, Period.of(of, period.last_day)))


def is_key(grain: Grain, text: str) -> bool:
    """Is `text` the partition key of a period?"""
    try:
        return bool(Period.parse(grain, text))
    except UsageError:
        return False


def keys(grain: Grain, first: str, last: str) -> list[str]:
    """The partition keys from `first` to `last`, both included; UsageError if they are none, or upside down."""
    if grain == "day":
        return day_range(first, last)
    return [period.text for period in Period.range(Period.parse(grain, first), Period.parse(grain, last))]


def keys_of_days(grain: Grain, first_day: str, last_day: str) -> list[str]:
    """The partition keys of the periods that have a day from `first_day` to `last_day`."""
    if grain == "day":
        return day_range(first_day, last_day)
    return [period.text for period in Period.range(Period.of(grain, first_day), Period.of(grain, last_day))]


def key_ranges(grain: Grain, partitions: list[str]) -> list[tuple[str, str]]:
    """Sorted partition keys as ranges (first, last) without gaps."""
    ranges = consecutive([Period(grain, partition) for partition in partitions])
    return [(first.text, last.text) for first, last in ranges]


def spans(grain: Grain, partitions: list[str], at_most: int | None = None) -> str:
    """Sorted partition keys as people write them: `2026-01-02, 2026-01-05..2026-01-09`.

    at_most: of more ranges the first ones are written, and `and 3 more ranges up to 2026-02-01`.
    """
    ranges = key_ranges(grain, partitions)
    shown = ", ".join(span(*one) for one in ranges[:at_most])
    more = len(ranges[at_most:]) if at_most else 0
    return shown + (f" and {counted(more, 'more range')} up to {partitions[-1]}" if more else "")


def consecutive(periods: list[Period]) -> list[tuple[Period, Period]]:
    """Sorted periods of one grain as ranges (first, last) without gaps."""
    ranges: list[tuple[Period, Period]] = []
    number = None
    for period in periods:
        previous, number = number, period._number
        if previous is not None and number == previous + 1:
            ranges[-1] = (ranges[-1][0], period)
        else:
            ranges.append((period, period))
    return ranges


def _count(grain: Grain, first: date) -> int:
    return first.toordinal() if grain == "day" else (first.toordinal() - 1) // 7


def _is_day(text: str) -> bool:
    try:
        parse_day(text)
    except UsageError:
        return False
    return True
