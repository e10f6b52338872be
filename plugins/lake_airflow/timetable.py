"""When a DAG runs: once for each period (a day, a week, a month) of its timezone, after the period is over."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable
from airflow.timetables.trigger import CronPartitionTimetable
from pendulum import DateTime

from include.lake.errors import UsageError
from include.lake.project.days import day_start
from include.lake.project.periods import GRAINS, Grain, Period

# Sources deliver a period some time after its end. A run at midnight would only wait for them.
START_AFTER_MIDNIGHT = timedelta(hours=1)
ADJECTIVES: dict[Grain, str] = {"day": "daily", "week": "weekly", "month": "monthly"}


class Partitions(Timetable):
    """The run of a period comes an hour after its last day. Its partition key is the text of the period.

    Airflow's own cron timetable loses days: where clocks skip a midnight, cron has no tick. This timetable counts days
    by the calendar, and the timezone only says when each day is over. A day that a timezone skipped (2011-12-30 in
    Apia) has a run, too: tables and ranges contain it like any other day.
    """

    partitioned = True

    def __init__(self, timezone: str, grain: Grain = "day") -> None:
        if grain not in GRAINS:
            raise UsageError(f"{grain!r} is no grain: write one of {', '.join(GRAINS)}")
        self.timezone, self.grain = timezone, grain
        after = {"day": "", "week": " on Mondays", "month": " on the 1st"}[grain]
        self.description = f"At 01:00{after} {timezone}, for the {grain} before"

    # The partition key is part of the run id, so runs of two periods never get the same id.
    generate_run_id = CronPartitionTimetable.generate_run_id

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.serialize() == self.serialize()

    def __hash__(self) -> int:
        return hash((self.timezone, self.grain))

    def serialize(self) -> dict[str, Any]:
        return {"timezone": self.timezone, "grain": self.grain}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "Partitions":
        return cls(**data)

    @property
    def summary(self) -> str:
        return f"{ADJECTIVES[self.grain]}, {self.timezone}"

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        return DataInterval.exact(run_after)

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        raise NotImplementedError("a run of a partition has no data interval: Airflow calls next_dagrun_info_v2")

    def next_dagrun_info_v2(
        self, *, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The run after the last one. Without catch-up: the newest period that is over, if it is later."""
        periods = []
        if last_dagrun_info is not None and last_dagrun_info.partition_date is not None:
            periods.append(self._period(last_dagrun_info).after(1))
        if restriction.earliest is not None and not (periods and restriction.catchup):
            periods.append(self._first(restriction.earliest))
        if not (periods and restriction.catchup):
            periods.append(Period.newest_over(self.grain, self.timezone))
        period = max(periods)
        if restriction.latest is not None and restriction.latest < self._end(period):
            return None
        return self._info(period, self._end(period) + START_AFTER_MIDNIGHT)

    def localize_partition_datetime(self, dt: datetime) -> DateTime:
        """The start of the day that a user means by `dt`, the first or last day of a backfill or a clear."""
        return self._start(_day_meant(dt))

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterator[DagRunInfo]:
        """The runs of a backfill: the periods that begin from `earliest` to `latest` and are over."""
        first_day, last_day = _day_meant(earliest), _day_meant(latest)
        first = Period.of(self.grain, first_day)
        first = first if first.first_day == first_day else first.after(1)
        last = min(Period.of(self.grain, last_day), Period.newest_over(self.grain, self.timezone))
        for period in Period.range(first, last) if first <= last else ():
            yield self._info(period, self._start(period.first_day))

    def _decode_partition_date(self, partition_key: str) -> datetime:
        """Refuse a wrong partition key at once. Airflow calls it when a user triggers a run."""
        try:
            period = Period.parse(self.grain, partition_key)
        except UsageError as error:
            raise InvalidPartitionKeyError(str(error)) from None
        newest = Period.newest_over(self.grain, self.timezone)
        if period > newest:
            raise InvalidPartitionKeyError(
                f"{period} is not over in {self.timezone}; the newest {self.grain} is {newest}"
            )
        return self._start(period.first_day)

    def _info(self, period: Period, run_after: DateTime) -> DagRunInfo:
        start = self._start(period.first_day)
        return DagRunInfo(run_after=run_after, data_interval=None, partition_date=start, partition_key=period.text)

    def _period(self, info: DagRunInfo) -> Period:
        """The period of a run. An old run may have a key of an earlier schedule of the DAG."""
        try:
            return Period.parse(self.grain, str(info.partition_key))
        except UsageError:
            day = pendulum.instance(info.partition_date).in_timezone(self.timezone).date()  # type: ignore[arg-type]
            return Period.of(self.grain, day.isoformat())

    def _first(self, earliest: DateTime) -> Period:
        """The first period that is not over before `earliest`."""
        period = Period.of(self.grain, earliest.in_timezone(self.timezone).date().isoformat())
        return period.before(1) if self._start(period.first_day) >= earliest else period

    def _start(self, day: str) -> DateTime:
        return pendulum.instance(day_start(day, self.timezone))

    def _end(self, period: Period) -> DateTime:
        return self._start(period.after(1).first_day)


class DailyPartitions(Partitions):
    """A timetable of days. Serialised DAGs refer to it by this name."""


def _day_meant(dt: datetime) -> str:
    """The day that a user means by `dt`, the first or last day of a backfill or a clear.

    The command line sends a midnight in UTC. The UI sends the start of the first day and the end (23:59) of the last
    day. Both are in the timezone of the browser, converted to UTC. So the nearest midnight in UTC is the day, for
    browsers from UTC-11 to UTC+12. The timezone of the DAG does not matter.
    """
    instant = pendulum.instance(dt, tz="UTC").in_timezone("UTC")
    is_end = instant.minute % 15 == 14  # the last minute of a quarter hour: timezones end their days there
    day = instant.add(hours=12, minutes=is_end).subtract(days=is_end)
    return day.date().isoformat()
