"""When a DAG runs: every night, once for each day of its timezone, and never for a day that is not over."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.base import DagRunInfo, TimeRestriction
from airflow.timetables.trigger import CronPartitionTimetable

from include.lake.days import last_finished_day, parse_day
from include.lake.errors import UsageError

# The sources of a day arrive after midnight; a run that started then would only wait for them.
START_AFTER_MIDNIGHT = timedelta(hours=1)


class DailyPartitions(CronPartitionTimetable):
    """The run at 01:00 of day D+1 has the partition key D; days and hours are those of `timezone`."""

    def __init__(self, timezone: Any) -> None:
        # Partitions start at 00:00 and the run is delayed: with a cron at 01:00, Airflow would take partitions to start
        # at 01:00, lose the last day of a backfill and not see that a manual run is of the same partition.
        super().__init__("0 0 * * *", timezone=timezone, run_offset=-1, key_format="%Y-%m-%d")
        self.description = f"At 01:00 {self._timezone.name}, for the day before"

    def serialize(self) -> dict[str, Any]:
        return {"timezone": self._timezone.name}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "DailyPartitions":
        return cls(data["timezone"])

    @property
    def summary(self) -> str:
        return f"daily, {self._timezone.name}"

    def next_dagrun_info_v2(
        self, *, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next scheduled run: Airflow's own answer, asked without the delay, and then delayed."""
        if last_dagrun_info is not None and last_dagrun_info.partition_date is not None:
            midnight_after = self._get_next(last_dagrun_info.partition_date)
            last_dagrun_info = last_dagrun_info._replace(run_after=midnight_after)
        info = super().next_dagrun_info_v2(last_dagrun_info=last_dagrun_info, restriction=restriction)
        return info and info._replace(run_after=info.run_after + START_AFTER_MIDNIGHT)

    def localize_partition_datetime(self, dt: datetime) -> pendulum.DateTime:
        """The day that is meant by `dt`, the first or last day of a backfill or a clear, as its start in our timezone.

        The command line gives a midnight in UTC. The UI gives the start of the first day and the end (23:59) of the
        last one in the timezone of the browser, converted to UTC: the nearest midnight in UTC tells the day, from
        UTC-11 to UTC+12, whatever the timezone of the DAG.
        """
        instant = pendulum.instance(dt, tz="UTC").in_timezone("UTC")
        is_end = instant.minute % 15 == 14  # of an hour, a half or a quarter: where a timezone's days may end
        day = instant.add(hours=12, minutes=is_end).subtract(days=is_end)
        return pendulum.datetime(day.year, day.month, day.day, tz=self._timezone).in_timezone("UTC")

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterator[DagRunInfo]:
        """The runs of a backfill: the days from `earliest` to `latest`, but for those that are not over."""
        last = last_finished_day(self._timezone.name)
        for info in super().iter_partition_dagrun_infos(earliest=earliest, latest=latest):
            if str(info.partition_key) <= last:
                yield info

    def _decode_partition_date(self, partition_key: str) -> datetime:
        """Called when somebody triggers a run: a wrong key is refused there and then."""
        try:
            day = parse_day(partition_key)
        except UsageError as error:
            raise InvalidPartitionKeyError(str(error)) from None
        if day > (last := last_finished_day(self._timezone.name)):
            raise InvalidPartitionKeyError(f"{day} is not over in {self._timezone.name}; the newest day is {last}")
        return super()._decode_partition_date(day)
