"""The two kinds of task: build a table for the day of the run, and wait for a day of a table that others make."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout
from airflow.triggers.base import BaseTrigger, TriggerEvent

from include.lake import contracts
from include.lake.days import consecutive, last_finished_day, parse_day
from include.lake.errors import CheckFailed, ContractError, UsageError

# Seconds between two looks at the lake: one look takes some 20 ms, so a hundred waiting sensors keep the triggerer busy
# for a fifth of the time, and nobody minds ten seconds on data that is hours late.
POLL_SECONDS = 10
# Seconds after which a sensor says again what it waits for, though nothing changed.
REPEAT_SECONDS = 300
# Looks that may fail one after the other before the sensor fails and Airflow's retries take over: five minutes.
FAILED_LOOKS = 30

NO_DAY = (
    "this run has no day: give it one as its partition key, such as 2026-01-31 (UI: Trigger > Advanced Options > Partition"
    ' Key; REST: "partition_key": "2026-01-31"; airflow dags trigger: --conf \'{"part_date": "2026-01-31"}\')'
)


def day_of_run(context: Any) -> str:
    """The day that the run is for. A run without one, or for a day that is not over, fails at once and for good."""
    run, timezone = context["dag_run"], context["dag"].timezone.name
    given = run.partition_key or (run.conf or {}).get("part_date")
    if not given:
        raise AirflowFailException(NO_DAY)
    try:
        day = parse_day(given)
    except UsageError as error:
        raise AirflowFailException(str(error)) from None
    if day > (last := last_finished_day(timezone)):
        raise AirflowFailException(f"{day} is not over in {timezone}: the newest day that can be built is {last}")
    return day


class BuildTable(BaseOperator):
    """Build one table for the day of the run.

    There is no on_kill: a build is one atomic commit, so a killed task leaves the old day or the new one, and the next
    try finds out which.
    """

    ui_color = "#d9efe3"

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def execute(self, context: Any) -> dict[str, Any]:
        day = day_of_run(context)
        self.log.info("building %s for %s", self.table, day)
        from include.lake import runner  # heavy, and no business of a DAG parse

        run = context["dag_run"]
        try:
            outcome = runner.build(self.table, day, day, run=f"{run.dag_id}/{run.run_id}", log=self.log.info)
        except (ContractError, UsageError, CheckFailed) as error:  # a retry gives the same
            raise AirflowFailException(str(error)) from None
        self.log.info("%s %s is %s: %d rows in %.1f s", self.table, day, outcome.state, outcome.rows, outcome.seconds)
        for reason, count in sorted(outcome.dropped.items()):
            self.log.info("dropped %d rows: %s", count, reason)
        return {
            "table": self.table,
            "day": day,
            "state": outcome.state,
            "rows": outcome.rows,
            "seconds": round(outcome.seconds, 1),
            "dropped": dict(outcome.dropped),
            "note": outcome.note,
        }


class PartitionSensor(BaseOperator):
    """Wait until `table` has the days that builds of `readers` need of it; no worker is held meanwhile."""

    ui_color = "#e6e2f4"

    def __init__(self, *, table: str, readers: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.readers = readers

    def execute(self, context: Any) -> None:
        day = day_of_run(context)
        from include.lake.freshness import Lake

        lake = Lake()
        days = sorted({d for reader in self.readers for d in lake.input_days(reader, day, day).get(self.table, [])})
        if not lake.absent(self.table, days):
            self.log.info("%s is there: %s", self.table, in_words(days))
            return
        patience = contracts.get(self.table).patience_hours
        since = datetime.now(UTC)
        self.defer(
            trigger=PartitionTrigger(self.table, days, since.timestamp(), since.timestamp() + patience * 3600),
            method_name="resume",
        )

    def resume(self, context: Any, event: dict[str, Any]) -> None:
        if event["failed"]:
            raise AirflowSensorTimeout(event["message"])
        self.log.info("%s", event["message"])


class PartitionTrigger(BaseTrigger):
    """Looks at the lake until `days` of `table` are there or `deadline` has passed (both times in epoch seconds)."""

    def __init__(self, table: str, days: list[str], since: float, deadline: float) -> None:
        super().__init__()
        self.table = table
        self.days = days
        self.since = since
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        fields = {"table": self.table, "days": self.days, "since": self.since, "deadline": self.deadline}
        return f"{type(self).__module__}.{type(self).__name__}", fields

    async def run(self) -> AsyncIterator[TriggerEvent]:
        missing, said, said_at, failures = self.days, None, 0.0, 0
        while True:
            try:
                missing, failures = await asyncio.to_thread(self.look), 0
            except Exception as error:
                failures += 1
                self.log.warning("cannot look at %s (%d of %d): %s", self.table, failures, FAILED_LOOKS, error)
                if failures >= FAILED_LOOKS:
                    raise
            now = time.time()
            if not missing:
                message = f"{self.table} is there: {in_words(self.days)}"
                yield TriggerEvent({"failed": False, "message": message})
                return
            if now >= self.deadline:
                yield TriggerEvent({"failed": True, "message": self.gave_up(missing)})
                return
            if missing != said or now - said_at >= REPEAT_SECONDS:
                left = timedelta(seconds=round(self.deadline - now))
                self.log.info("waiting for %s: %s; for %s more", self.table, in_words(missing), left)
                said, said_at = missing, now
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> list[str]:
        """The days that are missing right now."""
        from include.lake.freshness import Lake

        return Lake().absent(self.table, self.days)

    def gave_up(self, missing: list[str]) -> str:
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M")
        hours = (self.deadline - self.since) / 3600
        return (
            f"waited for {self.table} ({in_words(missing)}) since {since} UTC, for {hours:g} hours (patience_hours of its"
            " contract): load or build it, then clear this task"
        )


def in_words(days: list[str]) -> str:
    """Days as people write them: ranges for consecutive ones, and no more than five."""
    if days == [""]:
        return "the whole table"
    ranges = [first if first == last else f"{first} to {last}" for first, last in consecutive(days)]
    return ", ".join(ranges[:5]) + (f" and {len(ranges) - 5} more gaps" if len(ranges) > 5 else "")
