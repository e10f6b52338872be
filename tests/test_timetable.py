"""Runs and days: the night's run, backfills as browsers and the command line ask for them, days that are not over."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

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
from airflow.timetables import trigger
from airflow.timetables.base import DagRunInfo, TimeRestriction
from lake_airflow import timetable
from lake_airflow.timetable import DailyPartitions

from include.lake.days import day_range, last_finished_day

START = pendulum.datetime(2020, 1, 1, tz="UTC")
NOON = datetime(2026, 3, 10, 3, tzinfo=UTC)  # 12:00 in Seoul


@pytest.fixture
def at(monkeypatch):
    """Set the clock of the scheduler and of the timetable."""

    def set_clock(now: datetime) -> None:
        monkeypatch.setattr(trigger, "utcnow", lambda: now)
        monkeypatch.setattr(timetable, "last_finished_day", lambda zone: last_finished_day(zone, now))

    set_clock(NOON)
    return set_clock


def serialized(zone: str):
    dag = DAG("days", schedule=DailyPartitions(zone), start_date=START, catchup=False)
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


def backfill(zone: str, from_date: str, to_date: str) -> list[str]:
    """The partition keys that Airflow makes of a request of the backfill form."""
    body = BackfillPostBody(dag_id="days", from_date=from_date, to_date=to_date)
    dag = serialized(zone)
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
def test_survives_serialisation(zone):
    before = DailyPartitions(zone)
    encoded = encode_timetable(before)
    after = decode_timetable(encoded)
    assert encode_timetable(after) == encoded
    assert type(after) is DailyPartitions and after == before
    assert (after.summary, after.description) == (f"daily, {zone}", f"At 01:00 {zone}, for the day before")


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
