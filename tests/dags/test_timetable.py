"""Runs and days: the night's run, backfills as browsers and the command line ask for them, days that are not over."""

from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from zoneinfo import ZoneInfo, available_timezones

import pytest

from tests import airflow_home  # noqa: F401

# isort: split
import pendulum
from airflow.api_fastapi.core_api.datamodels.backfills import BackfillPostBody
from airflow.exceptions import InvalidPartitionKeyError
from airflow.models.backfill import _get_info_list
from airflow.sdk import DAG
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import DagRunInfo, TimeRestriction
from lake_airflow.timetable import DailyPartitions, Partitions

from include.lake.project import periods
from include.lake.project.days import day_range, day_start, days_before, last_finished_day
from include.lake.project.periods import Period

START = pendulum.datetime(2020, 1, 1, tz="UTC")
NOON = datetime(2026, 3, 10, 3, tzinfo=UTC)  # 12:00 in Seoul


@pytest.fixture
def at(monkeypatch):
    """Set the clock of the timetable."""

    def set_clock(now: datetime) -> None:
        monkeypatch.setattr(periods, "last_finished_day", lambda zone, at=None: last_finished_day(zone, at or now))

    set_clock(NOON)
    return set_clock


def serialized(zone: str, grain: str = "day"):
    dag = DAG("days", schedule=Partitions(zone, grain), start_date=START, catchup=False)
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


def backfill(zone: str, from_date: str, to_date: str, grain: str = "day") -> list[str]:
    """The partition keys that Airflow makes of a request of the backfill form."""
    body = BackfillPostBody(dag_id="days", from_date=from_date, to_date=to_date)
    dag = serialized(zone, grain)
    infos = _get_info_list(dag=dag, from_date=body.from_date, to_date=body.to_date, reverse=False)
    assert [i.partition_date for i in infos] == [dag.timetable.resolve_partition_date(i.partition_key) for i in infos]
    return [info.partition_key for info in infos]


def as_browser(day: str, zone: str, clock: str) -> str:
    """What the form sends for a day and a time of day picked in `zone`: JavaScript's toISOString()."""
    local = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return local.strftime("%Y-%m-%dT%H:%M:%S.") + f"{local.microsecond // 1000:03}Z"


@pytest.mark.parametrize("last_clock", ["23:59:59.999000", "23:59:00", "00:00:00"])
@pytest.mark.parametrize(
    "browser",
    [
        "Asia/Seoul",
        "UTC",
        "America/New_York",
        "America/Los_Angeles",
        "Asia/Kolkata",
        "Europe/Berlin",
        "Australia/Sydney",
    ],
)
@pytest.mark.parametrize("zone", ["Asia/Seoul", "UTC"])
def test_backfill_gives_the_days_that_were_picked_wherever_the_browser_is(at, zone, browser, last_clock):
    # November: New York, Berlin and Sydney change their clocks around it.
    first, last = "2025-10-20", "2025-11-09"
    asked = as_browser(first, browser, "00:00:00"), as_browser(last, browser, last_clock)
    assert backfill(zone, *asked) == day_range(first, last)


@pytest.mark.parametrize("zone", ["Asia/Seoul", "UTC"])
def test_backfill_from_the_command_line(at, zone):
    assert backfill(zone, "2026-01-01T00:00:00+00:00", "2026-01-07T00:00:00+00:00") == day_range(
        "2026-01-01", "2026-01-07"
    )


def test_backfill_of_one_day_in_seoul(at):
    assert backfill("Asia/Seoul", "2025-12-31T15:00:00Z", "2026-01-01T14:59:59.999Z") == ["2026-01-01"]


def test_backfill_stops_before_the_day_that_is_not_over(at):
    asked = (
        as_browser("2026-03-08", "Asia/Seoul", "00:00:00"),
        as_browser("2026-03-12", "Asia/Seoul", "23:59:59.999000"),
    )
    assert backfill("Asia/Seoul", *asked) == ["2026-03-08", "2026-03-09"]


def restriction(catchup: bool = False) -> TimeRestriction:
    return TimeRestriction(earliest=START, latest=None, catchup=catchup)


def next_run(zone: str, last: DagRunInfo | None = None, catchup: bool = False) -> tuple[str, str]:
    info = DailyPartitions(zone).next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction(catchup))
    return info.partition_key, info.run_after.in_timezone(zone).strftime("%Y-%m-%d %H:%M")


def scheduled(day: str, zone: str = "Asia/Seoul", start_hours: int = 25) -> DagRunInfo:
    """A run of a day as Airflow remembers it; one of a backfill has the day itself as its start (0 hours)."""
    date = DailyPartitions(zone).resolve_partition_date(day)
    return DagRunInfo(
        run_after=pendulum.instance(date + timedelta(hours=start_hours)),
        data_interval=None,
        partition_date=pendulum.instance(date),
        partition_key=day,
    )


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("Asia/Seoul", ("2026-03-09", "2026-03-10 01:00")), ("UTC", ("2026-03-09", "2026-03-10 01:00"))],
)
def test_a_dag_that_is_switched_on_runs_the_newest_finished_day(at, zone, expected):
    assert next_run(zone) == expected


@pytest.mark.parametrize("catchup", [False, True])
@pytest.mark.parametrize("start_hours", [25, 0], ids=["scheduled", "backfilled"])
def test_after_a_day_comes_the_next_at_one_o_clock(at, catchup, start_hours):
    last = scheduled("2026-03-09", start_hours=start_hours)
    assert next_run("Asia/Seoul", last, catchup) == ("2026-03-10", "2026-03-11 01:00")


def test_between_midnight_and_one_o_clock(at):
    at(datetime(2026, 3, 9, 15, 30, tzinfo=UTC))  # 00:30 in Seoul
    assert next_run("Asia/Seoul") == ("2026-03-09", "2026-03-10 01:00")
    assert next_run("Asia/Seoul", scheduled("2026-03-08")) == ("2026-03-09", "2026-03-10 01:00")


def test_days_missed_while_switched_off_are_left_out(at):
    assert next_run("Asia/Seoul", scheduled("2026-03-01")) == ("2026-03-09", "2026-03-10 01:00")
    assert next_run("Asia/Seoul", scheduled("2026-03-01"), catchup=True) == ("2026-03-02", "2026-03-03 01:00")


def test_the_scheduler_walks_through_a_month_and_every_day_has_its_run_once(at):
    days, last = [], None
    for hour in range(24 * 31):
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
        at(now)
        info = DailyPartitions("Asia/Seoul").next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction())
        if info.run_after <= now:
            days.append(info.partition_key)
            last = info
    assert days == day_range("2025-12-31", "2026-01-31")


def test_a_run_by_hand_is_of_the_same_partition_as_the_night_s(at):
    night = DailyPartitions("Asia/Seoul").next_dagrun_info_v2(last_dagrun_info=None, restriction=restriction())
    assert DailyPartitions("Asia/Seoul").resolve_partition_date("2026-03-09") == night.partition_date


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("2026-03-10", "2026-03-10 is not over in Asia/Seoul; the newest day is 2026-03-09"),
        ("2026-3-9", "'2026-3-9' is not a day"),
        ("2026-02-30", "'2026-02-30' is not a day"),
        ("2026-03-09T00:00:00", "is not a day"),
    ],
)
def test_a_wrong_key_is_refused_when_the_run_is_triggered(at, key, why):
    with pytest.raises(InvalidPartitionKeyError, match=why):
        DailyPartitions("Asia/Seoul").resolve_partition_date(key)


def test_filters_and_clears_by_days_mean_whole_days(at):
    window = DailyPartitions("Asia/Seoul").localize_partition_datetime
    assert window(datetime(2026, 1, 5)) == pendulum.datetime(2026, 1, 4, 15)  # what the UI's filter gives: no timezone
    assert window(pendulum.datetime(2026, 1, 5)) == pendulum.datetime(2026, 1, 4, 15)  # airflow dags clear


@pytest.mark.parametrize("zone", ["Asia/Seoul", "UTC", "America/New_York"])
@pytest.mark.parametrize(
    ("before", "summary", "when"),
    [
        (DailyPartitions, "daily", "At 01:00 {}, for the day before"),
        (partial(Partitions, grain="day"), "daily", "At 01:00 {}, for the day before"),
        (partial(Partitions, grain="week"), "weekly", "At 01:00 on Mondays {}, for the week before"),
        (partial(Partitions, grain="month"), "monthly", "At 01:00 on the 1st {}, for the month before"),
    ],
)
def test_survives_serialisation(zone, before, summary, when):
    before = before(zone)
    encoded = encode_timetable(before)
    after = decode_timetable(encoded)
    assert encode_timetable(after) == encoded
    assert type(after) is type(before) and after == before
    assert (after.summary, after.description) == (f"{summary}, {zone}", when.format(zone))


def test_a_schedule_as_it_was_serialised_before_there_were_grains():
    assert DailyPartitions.deserialize({"timezone": "Asia/Seoul"}) == DailyPartitions("Asia/Seoul")


def test_airflow_s_calendar_can_look_ahead(at):
    dag = serialized("Asia/Seoul")
    run = SimpleNamespace(
        run_after=pendulum.datetime(2026, 3, 9, 16),
        partition_date=pendulum.datetime(2026, 3, 8, 15),
        partition_key="2026-03-09",
        data_interval_start=None,
        data_interval_end=None,
        logical_date=None,
    )
    info = dag.timetable.run_info_from_dag_run(dag_run=run)
    keys = []
    for _ in range(3):
        info = dag.next_dagrun_info(last_automated_run_info=info)
        keys.append(info.partition_key)
    assert keys == ["2026-03-10", "2026-03-11", "2026-03-12"]


def clock_changes(first_year: int, last_year: int) -> list[tuple[str, str]]:
    """(zone, day) for each way in which a timezone has put its clocks: from which offset to which, at which time."""
    kinds: dict[tuple, tuple[str, str]] = {}
    for zone in sorted(available_timezones()):
        clock, step = ZoneInfo(zone), timedelta(days=14)
        before, end = datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year, 12, 31, tzinfo=UTC)
        offset = before.astimezone(clock).utcoffset()
        while before < end:
            after = before + step
            if (new := after.astimezone(clock).utcoffset()) != offset:
                while after - before > timedelta(seconds=1):
                    middle = before + (after - before) / 2
                    before, after = (
                        (middle, after) if middle.astimezone(clock).utcoffset() == offset else (before, middle)
                    )
                local = (after + offset).replace(microsecond=0)
                kinds.setdefault((offset, new, local.time()), (zone, local.date().isoformat()))
                offset = new
            before = after
    return list(kinds.values())


def test_every_zone_has_every_day_once_and_after_its_end(at):
    """Days without a midnight, with two, of other than 24 hours, and the one that Samoa skipped: all that there are."""
    changes = clock_changes(2010, 2027)
    assert len(changes) > 100 and ("Pacific/Apia", "2011-12-30") in changes, changes
    skipped_midnights = [
        ("Africa/Cairo", "2024-04-26"),
        ("America/Havana", "2024-03-10"),
        ("America/Santiago", "2024-09-08"),
        ("Asia/Beirut", "2024-03-31"),
        ("Atlantic/Azores", "2024-03-31"),
    ]
    for zone, changed in [*skipped_midnights, *changes]:
        schedule, clock = DailyPartitions(zone), ZoneInfo(zone)
        at(datetime(2030, 1, 1, tzinfo=UTC))
        days = day_range(days_before(changed, 3), days_before(changed, -3))
        last = scheduled(days[0], zone)
        for day in days[1:]:
            at(last.run_after)  # a scheduler looks for the next run as soon as it has made one
            last = schedule.next_dagrun_info_v2(last_dagrun_info=last, restriction=TimeRestriction(None, None, False))
            assert last.partition_key == day, zone
            shown = [
                (last.run_after + timedelta(minutes=15 * n)).astimezone(clock).date().isoformat()
                for n in range(-17, 100)
            ]
            assert min(shown[17:]) > day >= min(shown[:17]), (zone, day)  # neither early nor hours late
            at(last.run_after)
            assert schedule.resolve_partition_date(day) == last.partition_date, zone
        at(last.run_after)
        first, last_day = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (days[0], days[-1]))
        backfilled = list(schedule.iter_partition_dagrun_infos(earliest=first, latest=last_day))
        assert [info.partition_key for info in backfilled] == days, zone
        assert [schedule.localize_partition_datetime(first + timedelta(days=n)) for n in range(7)] == [
            info.partition_date for info in backfilled
        ], zone


@pytest.mark.parametrize(
    ("grain", "last", "following", "run_after"),
    [
        ("week", "2026-03-02", "2026-03-09", "2026-03-16 01:00"),
        ("week", "2025-12-29", "2026-01-05", "2026-01-12 01:00"),
        ("month", "2026-02", "2026-03", "2026-04-01 01:00"),
        ("month", "2025-12", "2026-01", "2026-02-01 01:00"),
        ("week", "2026-03-04", "2026-03-09", "2026-03-16 01:00"),  # the last run was of a day: it is of this week
        ("month", "2026-03-04", "2026-04", "2026-05-01 01:00"),
    ],
)
def test_a_week_and_a_month_run_when_their_last_day_is_over(at, grain, last, following, run_after):
    at(datetime(2025, 12, 1, tzinfo=UTC))
    day = last if len(last) == 10 else f"{last}-01"
    info = DagRunInfo(
        run_after=pendulum.datetime(2026, 1, 1),
        data_interval=None,
        partition_date=pendulum.instance(day_start(day, "Asia/Seoul")),
        partition_key=last,
    )
    info = Partitions("Asia/Seoul", grain).next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction())
    assert info.partition_key == following
    assert info.run_after.in_timezone("Asia/Seoul").strftime("%Y-%m-%d %H:%M") == run_after
    assert info.partition_date == day_start(Period(grain, following).first_day, "Asia/Seoul")


@pytest.mark.parametrize(
    ("grain", "days", "expected"),
    [
        # The periods that begin on the days that were picked, but for those that are not over on the 10th of March.
        ("week", ("2026-02-01", "2026-03-31"), ["2026-02-02", "2026-02-09", "2026-02-16", "2026-02-23", "2026-03-02"]),
        ("week", ("2026-02-02", "2026-02-09"), ["2026-02-02", "2026-02-09"]),
        ("week", ("2026-02-03", "2026-02-08"), []),
        ("month", ("2025-12-01", "2026-03-31"), ["2025-12", "2026-01", "2026-02"]),
        ("month", ("2025-12-02", "2026-01-01"), ["2026-01"]),
    ],
)
def test_backfill_of_weeks_and_months(at, grain, days, expected):
    asked = as_browser(days[0], "Asia/Seoul", "00:00:00"), as_browser(days[1], "Asia/Seoul", "23:59:59.999000")
    assert backfill("Asia/Seoul", *asked, grain) == expected


@pytest.mark.parametrize(
    ("grain", "key", "why"),
    [
        ("week", "2026-03-04", "2026-03-04 is a Wednesday: a week is named by its Monday, here 2026-03-02"),
        ("week", "2026-03-09", "2026-03-09 is not over in Asia/Seoul; the newest week is 2026-03-02"),
        ("month", "2026-03", "2026-03 is not over in Asia/Seoul; the newest month is 2026-02"),
        ("month", "2026-03-01", "'2026-03-01' is not a month"),
    ],
)
def test_a_wrong_week_or_month_is_refused_when_the_run_is_triggered(at, grain, key, why):
    with pytest.raises(InvalidPartitionKeyError, match=why):
        Partitions("Asia/Seoul", grain).resolve_partition_date(key)
