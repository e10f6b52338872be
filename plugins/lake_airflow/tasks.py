"""The tasks of a DAG: build a table for the day of the run, wait for an input, build late days again."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TaskSuccessEvent, TriggerEvent

from include.lake import settings
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts
from include.lake.project.current import held
from include.lake.project.periods import SHOWN, Grain, Period, spans
from include.lake.words import counted

# Seconds between two looks at the lake. Data arrives hours after its day, so ten seconds more do not matter.
POLL_SECONDS = 10
# Seconds for which sensors share one look. So a hundred sensors read no more files than one.
LOOK_SECONDS = 5
# Seconds after which a sensor logs its reason again, although nothing has changed.
REPEAT_SECONDS = 300
# This many failed looks in a row make the sensor fail: five minutes, on Databricks by default 2.5 hours. Then Airflow
# retries it.
FAILED_LOOKS = 30
# The sensor ends by itself and logs what is missing. If the triggerer hangs, Airflow ends the task this much later.
GRACE = timedelta(minutes=10)

DAY = "{{ dag_run.partition_key or (dag_run.conf or {}).get('part_date') or '' }}"
NO_DAY = (
    "this run has no day: give it one as its partition key, such as 2026-01-31 (UI: Trigger > Advanced Options >"
    ' Partition Key; REST: "partition_key": "2026-01-31"; airflow dags trigger: --conf \'{"part_date": "2026-01-31"}\')'
)


def usable_partition(key: Any, timezone: str, grain: Grain) -> str:
    """The partition of a run, from its key or its conf; UsageError if there is none or one that is not over."""
    if not key:
        raise UsageError(NO_DAY)
    period = Period.parse(grain, key)
    if period > (newest := Period.newest_over(grain, timezone)):
        raise UsageError(f"{period} is not over in {timezone}: the newest {grain} that can be built is {newest}")
    return period.text


class BuildTable(BaseOperator):
    """Build one table for the day of the run. The runner writes each step and the result to the log of the task.

    There is no on_kill. A build is one atomic commit, so a killed task leaves either the old rows or the new ones. The
    next try looks at the ledger and the commits to see which.
    """

    ui_color = "#d9efe3"

    def __init__(self, *, table: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table

    def execute(self, context: Any) -> dict[str, Any]:
        day, run = partition_and_run(context, self.table)
        self.log.info("building %s for %s", self.table, day)
        outcome = self.build(day, day, run)
        return {
            "table": self.table,
            "day": day,
            "state": outcome.state,
            "rows": outcome.rows,
            "seconds": round(outcome.seconds, 1),
            "dropped": dict(outcome.dropped),
            "note": outcome.note,
        }

    def build(self, first: str, last: str, run: str) -> Any:
        """Build with the runner. If the build fails, the reason is at the end of the task's log."""
        from include.lake.build import failures, runner  # slow to import: a DAG parse must not need it

        error: Exception
        try:
            with held():
                return runner.build(self.table, first, last, run=run, log=self.log.info)
        except AirflowTaskTimeout:
            hours = self.execution_timeout.total_seconds() / 3600 if self.execution_timeout else 0
            error = LakeError(
                f"the engine has not built it within {hours:g} h (execution_timeout): it hangs or needs more memory"
            )
        except Exception as other:
            error = other
        failure = failures.explain(error, self.table, first, last)
        raise (AirflowException if failure.retry else AirflowFailException)(failure.text)


class LateDays(BaseOperator):
    """Build the days before the day of the run that late data made stale, for all tables of a task list.

    It is a separate task. If a late day fails, only this task is red, and the tables of today are not affected.
    """

    ui_color = "#f4ecd2"

    def __init__(self, *, tables: list[str], look_back_days: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tables = tables
        self.look_back_days = look_back_days

    def execute(self, context: Any) -> dict[str, list[str]]:
        from include.lake.build import late  # slow to import: a DAG parse must not need it

        day, run = partition_and_run(context, self.tables[0])
        with held():
            result = late.build_stale_days(self.tables, day, self.look_back_days, run, self.log.info)
        if not result.built and not result.failed:
            self.log.info("nothing of the %s before %s is stale", counted(self.look_back_days, "day"), day)
        if result.failed:
            retry = any(failure.retry for failure in result.failed)
            text = "\n".join(failure.text for failure in result.failed)
            raise (AirflowException if retry else AirflowFailException)(text)
        return result.built


def partition_and_run(context: Any, table: str) -> tuple[str, str]:
    """The partition that a run builds of a table, and the name of the run; AirflowFailException without one."""
    run, grain = context["dag_run"], contracts.get(table).grain
    key = run.partition_key or (run.conf or {}).get("part_date")
    try:
        day = usable_partition(key, context["dag"].timezone.name, grain)
    except UsageError as error:
        raise AirflowFailException(str(error)) from None
    return day, f"{run.dag_id}/{run.run_id}"


class PartitionSensor(BaseOperator):
    """Wait until `table` has the days that builds of `readers` need of it.

    It runs only in the triggerer, from its start to its success. On a worker, twenty sensors would each need a process
    and a DAG parse. That costs more than the builds that wait for them.
    """

    template_fields = ("day",)
    ui_color = "#e6e2f4"

    def __init__(self, *, table: str, readers: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.readers = readers
        self.day = DAY
        self.hours = contracts.get(table).patience_hours
        self.timeout = timedelta(hours=self.hours) + GRACE
        self.start_from_trigger = True
        trigger_cls, trigger_kwargs = self.trigger().serialize()
        self.start_trigger_args = StartTriggerArgs(trigger_cls, "give_up", trigger_kwargs, timeout=self.timeout)

    def trigger(self) -> "PartitionTrigger":
        return PartitionTrigger(self.table, self.readers, self.day, self.dag.timezone.name, self.hours)

    def execute(self, context: Any) -> None:
        """Defer. The scheduler never calls it; `airflow tasks test` and `airflow dags test` do."""
        self.defer(trigger=self.trigger(), method_name="give_up", timeout=self.timeout)

    def give_up(self, context: Any, event: Any = None) -> None:
        """Fail without a retry. A longer wait is a matter of the contract: `patience_hours`."""
        if isinstance(event, dict):  # `dags test` also calls it after success, with a text as event
            raise AirflowFailException(event["error"])


class PartitionTrigger(BaseTrigger):
    """Looks at the lake until `table` has what builds of `readers` for `day` need of it, for at most `hours`."""

    # The triggerer sets it: the end of patience plus GRACE. It stays the same when the triggerer restarts.
    timeout_after: datetime | None = None

    def __init__(self, table: str, readers: list[str], day: str, timezone: str, hours: float) -> None:
        super().__init__()
        self.table = table
        self.readers = readers
        self.day = day
        self.timezone = timezone
        self.hours = hours

    def serialize(self) -> tuple[str, dict[str, Any]]:
        fields = ("table", "readers", "day", "timezone", "hours")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in fields}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        patience = timedelta(hours=self.hours)
        deadline = self.timeout_after - GRACE if self.timeout_after else datetime.now(UTC) + patience
        # Contracts are read in the loop, too: somebody may be in the middle of an edit or a `git checkout`.
        missing, words, is_checked = {self.day: "is missing"}, self.day, False
        said, said_at, failures = None, 0.0, 0
        while True:
            try:
                if not is_checked and (wrong := self._wrong_day()):
                    yield TriggerEvent({"error": wrong})
                    return
                is_checked = True
                if (found := await self._missing()) != missing:
                    missing, words = found, in_words(self.table, found)
                failures = 0
            except Exception as error:
                failures += 1
                self.log.warning("cannot look at %s (%d of %d): %s", self.table, failures, FAILED_LOOKS, error)
                if failures >= FAILED_LOOKS:
                    raise
            left = deadline - datetime.now(UTC)
            if not missing:
                self.log.info("%s is there for %s", self.table, self.day)
                yield TaskSuccessEvent()
                return
            if left <= timedelta(0):
                since = (deadline - patience).strftime("%Y-%m-%d %H:%M")
                yield TriggerEvent(
                    {
                        "error": f"waited for {self.table} ({words}) since {since} UTC, "
                        f"for {counted(self.hours, 'hour')} (patience_hours of its contract): load or build it, then "
                        "clear this task"
                    }
                )
                return
            if missing != said or time.monotonic() - said_at >= REPEAT_SECONDS:
                more = timedelta(seconds=round(left.total_seconds()))
                self.log.info("waiting for %s: %s; for %s more", self.table, words, more)
                said, said_at = missing, time.monotonic()
            await self._pause()

    def _wrong_day(self) -> str | None:
        """What is wrong with the day of the run: it does not get better with time."""
        grain = contracts.get(self.readers[0]).grain
        try:
            usable_partition(self.day, self.timezone, grain)
        except UsageError as error:
            return str(error)
        return None

    async def _missing(self) -> dict[str, str]:
        if settings.on_databricks():
            from lake_airflow import shared_look

            return await shared_look.board().missing(shared_look.Ask(self.table, tuple(self.readers), self.day))
        return await asyncio.to_thread(look, self.table, self.readers, self.day)

    async def _pause(self) -> None:
        if settings.on_databricks():
            from lake_airflow import shared_look

            await shared_look.board().pause()
        else:
            await asyncio.sleep(POLL_SECONDS)


_looking = threading.Lock()
_newest_look: tuple[float, Any] = (0.0, None)


def look(table: str, readers: list[str], day: str) -> dict[str, str]:
    """The days of `table` that keep `readers` from being built for `day`, each with the reason."""
    global _newest_look
    from include.lake.state.look import Look

    with _looking:
        if time.monotonic() - _newest_look[0] > LOOK_SECONDS or _newest_look[1] is None:
            _newest_look = (time.monotonic(), Look())
        lake = _newest_look[1]
        try:
            needed = {d for reader in readers for d in lake.input_days(reader, day, day).get(table, [])}
            return lake.absent_reasons(table, sorted(needed))
        except Exception:
            _newest_look = (0.0, None)  # a failed look may have read only half of the state
            raise


def in_words(table: str, missing: dict[str, str]) -> str:
    """Days and why they are missing, as people write them."""
    if "" in missing:
        return "the whole table"
    reasons = dict.fromkeys(reason for reason in missing.values() if reason != "is missing")
    return spans(contracts.get(table).grain, sorted(missing), SHOWN) + "".join(
        f", which {reason}" for reason in list(reasons)[:1]
    )
