"""Periods: days, weeks by their Monday and months, as keys, ranges and days."""

from datetime import UTC, datetime

import pytest

from include.lake.errors import UsageError
from include.lake.project.periods import GRAINS, Period, consecutive, spans


@pytest.mark.parametrize(
    ("grain", "text", "first_day", "last_day", "before", "after"),
    [
        ("day", "2024-02-29", "2024-02-29", "2024-02-29", "2024-02-28", "2024-03-01"),
        ("week", "2024-12-30", "2024-12-30", "2025-01-05", "2024-12-23", "2025-01-06"),
        ("month", "2024-02", "2024-02-01", "2024-02-29", "2024-01", "2024-03"),
        ("month", "2025-12", "2025-12-01", "2025-12-31", "2025-11", "2026-01"),
        ("month", "2026-01", "2026-01-01", "2026-01-31", "2025-12", "2026-02"),
    ],
)
def test_a_period(grain, text, first_day, last_day, before, after):
    period = Period.parse(grain, text)
    assert (str(period), period.first_day, period.last_day) == (text, first_day, last_day)
    assert (period.before(1).text, period.after(1).text) == (before, after)
    assert period.before(100).after(100) == period.after(0) == period
    assert period.before(1) < period < period.after(1)
    assert {Period.of(grain, day) for day in period.days} == {period}
    assert period.days[0] == first_day and period.days[-1] == last_day


@pytest.mark.parametrize(
    ("grain", "text", "message"),
    [
        ("day", "2026-1-1", "'2026-1-1' is not a day: write it as yyyy-MM-dd"),
        ("day", "2026-01", "is not a day"),
        ("week", "2026-W01", "'2026-W01' is not a week: write its Monday as yyyy-MM-dd, such as 2026-01-05"),
        ("week", "2026-01-01", "2026-01-01 is a Thursday: a week is named by its Monday, here 2025-12-29"),
        ("week", "9999-12-27", "there is no such week: days go from 0001-01-01 to 9999-12-31"),
        ("month", "2026-13", "'2026-13' is not a month: write it as yyyy-MM, such as 2026-01"),
        ("month", "2026-01-01", "'2026-01-01' is not a month"),
        ("month", "2026-01\n", "is not a month"),
        ("month", "0000-01", "is not a month"),
        *((grain, wrong, "is not a") for grain in GRAINS for wrong in (None, 5, "", "'; drop")),
    ],
)
def test_what_is_no_period_is_refused_with_the_cure(grain, text, message):
    with pytest.raises(UsageError, match=message):
        Period.parse(grain, text)


@pytest.mark.parametrize("grain", GRAINS)
def test_there_is_none_before_or_after_the_calendar(grain):
    for step in (Period.of(grain, "0001-01-01").before, Period.of(grain, "9999-12-26").after):
        with pytest.raises(UsageError, match=f"there is no such {grain}"):
            step(7)


@pytest.mark.parametrize(
    ("grain", "first", "last", "expected"),
    [
        ("day", "2026-02-27", "2026-03-01", ["2026-02-27", "2026-02-28", "2026-03-01"]),
        ("week", "2025-12-22", "2026-01-05", ["2025-12-22", "2025-12-29", "2026-01-05"]),
        ("month", "2025-11", "2026-02", ["2025-11", "2025-12", "2026-01", "2026-02"]),
        ("month", "2025-11", "2025-11", ["2025-11"]),
    ],
)
def test_ranges_and_what_is_consecutive(grain, first, last, expected):
    periods = Period.range(Period(grain, first), Period(grain, last))
    assert [str(period) for period in periods] == expected
    assert consecutive(periods) == [(periods[0], periods[-1])]
    alone = periods[-1].after(2)
    assert consecutive([*periods, alone]) == [(periods[0], periods[-1]), (alone, alone)]


def test_ranges_as_people_write_them():
    days = ["2026-01-02", "2026-01-05", "2026-01-06", "2026-01-09"]
    assert spans("day", days) == "2026-01-02, 2026-01-05..2026-01-06, 2026-01-09"
    assert spans("day", days, 3) == "2026-01-02, 2026-01-05..2026-01-06, 2026-01-09"
    assert spans("day", days, 1) == "2026-01-02 and 2 more ranges up to 2026-01-09"
    assert spans("week", ["2026-01-05", "2026-01-12"], 1) == "2026-01-05..2026-01-12"


def test_no_range():
    assert consecutive([]) == []
    with pytest.raises(UsageError, match="upside down: 2026-02 is after 2026-01"):
        Period.range(Period("month", "2026-02"), Period("month", "2026-01"))
    with pytest.raises(UsageError, match="2026-01 is a month and 2026-01-05 is a week"):
        Period.range(Period("month", "2026-01"), Period("week", "2026-01-05"))


@pytest.mark.parametrize(
    ("now", "day", "week", "month"),
    [
        ("2026-03-01T14:59:59Z", "2026-02-28", "2026-02-16", "2026-02"),  # Sunday, a second before midnight in Seoul
        ("2026-03-01T15:00:00Z", "2026-03-01", "2026-02-23", "2026-02"),
        ("2026-03-31T15:00:00Z", "2026-03-31", "2026-03-23", "2026-03"),
    ],
)
def test_the_newest_that_is_over(now, day, week, month):
    now = datetime.fromisoformat(now).astimezone(UTC)
    for grain, newest in (("day", day), ("week", week), ("month", month)):
        period = Period.newest_over(grain, "Asia/Seoul", now)
        assert str(period) == newest
        assert period.is_over("Asia/Seoul", now) and not period.after(1).is_over("Asia/Seoul", now)
