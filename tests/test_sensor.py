"""The sensor: what it waits for, when it goes on, when it gives up and what it says meanwhile. On real Delta tables."""

import asyncio
import json
import logging
import time
from types import SimpleNamespace

import pyarrow as pa
import pytest

from tests import airflow_home  # noqa: F401

# isort: split
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred
from lake_airflow import tasks
from lake_airflow.tasks import PartitionSensor, PartitionTrigger, in_words
from lake_airflow.timetable import DailyPartitions

from include.lake import contracts, ledger, storage

LOG = "service_log.weverse_server_log"
PROFILES = "we_mart.ods_wv_member_profile"
ARTISTS = "we_mart.we_artist"
MEMBERS = "we_mart.wv_comm_user"
DAY = "2026-01-05"


@pytest.fixture(autouse=True)
def lake(tmp_path, monkeypatch):
    """An empty lake, and a trigger that looks often."""
    monkeypatch.setenv("LAKE_HOME", str(tmp_path))
    monkeypatch.setattr(tasks, "POLL_SECONDS", 0.05)


def load(table: str, *days: str) -> None:
    """One row for each day of a source; one row for a source without days."""
    contract = contracts.get(table)
    schema = storage.arrow_schema(contract)
    rows = [dict.fromkeys(schema.names) | ({contract.day_column: day} if day else {}) for day in days or [""]]
    storage.replace_source(contract, pa.Table.from_pylist(rows, schema=schema))


def enter(table: str, day: str) -> None:
    """A build of a day in the ledger, with no rows."""
    row = dict.fromkeys(ledger.SCHEMA.names) | {
        "table": table,
        "day": day,
        "build_id": "b",
        "status": "built",
        "version": 0,
    }
    from datetime import UTC, datetime

    ledger.append([row | {"built_at": datetime.now(UTC), "inputs": {}, "checks": {}, "dropped": {}, "rows": 0}])


def sensor(table: str, *readers: str) -> PartitionSensor:
    with DAG("d", schedule=DailyPartitions("Asia/Seoul"), start_date=None):
        return PartitionSensor(task_id="sensor", table=table, readers=list(readers))


def context(day: str | None = DAY) -> dict:
    run = SimpleNamespace(dag_id="d", run_id="r", partition_key=day, conf=None)
    return {"dag": SimpleNamespace(timezone=SimpleNamespace(name="Asia/Seoul")), "dag_run": run}


def deferred(table: str, *readers: str) -> PartitionTrigger:
    """The trigger that a sensor hands over to, after a trip through the database."""
    with pytest.raises(TaskDeferred) as raised:
        sensor(table, *readers).execute(context())
    assert raised.value.method_name == "resume"
    path, fields = raised.value.trigger.serialize()
    assert path == "lake_airflow.tasks.PartitionTrigger"
    return PartitionTrigger(**json.loads(json.dumps(fields)))


def event_of(trigger: PartitionTrigger) -> dict:
    async def first() -> dict:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("the trigger ended without an event")

    return asyncio.run(asyncio.wait_for(first(), 20))


def waiting(days: list[str], seconds: float, table: str = LOG) -> PartitionTrigger:
    now = time.time()
    return PartitionTrigger(table, days, now, now + seconds)


def test_goes_on_at_once_when_the_day_is_there():
    load(LOG, DAY)
    assert sensor(LOG, "we_mart.wv_server_log_base").execute(context()) is None


def test_waits_for_the_day_of_the_run_as_long_as_the_contract_says():
    trigger = deferred(LOG, "we_mart.wv_server_log_base")
    assert (trigger.table, trigger.days) == (LOG, [DAY])
    assert trigger.deadline - trigger.since == contracts.get(LOG).patience_hours * 3600 == 12 * 3600


def test_waits_for_earlier_days_too_where_the_select_reads_them():
    assert dict(contracts.get(MEMBERS).reads)[PROFILES] == 2
    load(PROFILES, "2025-12-31")
    assert deferred(PROFILES, MEMBERS).days == ["2026-01-03", "2026-01-04", DAY]


def test_does_not_wait_for_days_before_the_first_one_of_the_input():
    load(PROFILES, "2026-01-04")
    assert deferred(PROFILES, MEMBERS).days == ["2026-01-04", DAY]


def test_waits_for_the_days_of_all_who_read_the_table():
    assert deferred("we_mart.we_user", MEMBERS, "we_mart.wv_sess_daily").days == [DAY]


def test_a_table_without_days_has_to_be_loaded():
    assert deferred(ARTISTS, MEMBERS).days == [""]
    load(ARTISTS)
    assert sensor(ARTISTS, MEMBERS).execute(context()) is None


def test_a_table_that_we_build_is_there_when_the_ledger_has_the_day_even_an_empty_one():
    assert deferred(MEMBERS, "we_mart.wv_sess_daily").days == [DAY]
    enter(MEMBERS, DAY)
    assert sensor(MEMBERS, "we_mart.wv_sess_daily").execute(context()) is None


@pytest.mark.parametrize("day", [None, "2026-1-5", "2999-01-01"])
def test_a_run_without_a_usable_day_does_not_wait(day):
    with pytest.raises(AirflowFailException):
        sensor(LOG, "we_mart.wv_server_log_base").execute(context(day))


def test_the_trigger_fires_when_the_day_arrives():
    trigger = waiting([DAY], 60)

    async def both() -> dict:
        async def later() -> None:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(load, LOG, DAY)

        task = asyncio.create_task(later())
        async for event in trigger.run():
            await task
            return event.payload

    event = asyncio.run(asyncio.wait_for(both(), 20))
    assert event == {"failed": False, "message": f"{LOG} is there: {DAY}"}
    assert sensor(LOG, "we_mart.wv_server_log_base").resume(context(), event) is None


def test_gives_up_after_its_patience_and_names_what_it_waited_for():
    load(LOG, "2026-01-04")
    trigger = PartitionTrigger(LOG, ["2026-01-03", "2026-01-04", DAY], 1767679200, 1767679200 + 12 * 3600)
    event = event_of(trigger)
    with pytest.raises(AirflowSensorTimeout) as raised:
        sensor(LOG, "we_mart.wv_server_log_base").resume(context(), event)
    assert str(raised.value) == (
        "waited for service_log.weverse_server_log (2026-01-03, 2026-01-05) since 2026-01-06 06:00 UTC, for 12 hours"
        " (patience_hours of its contract): load or build it, then clear this task"
    )


def test_the_last_look_counts_after_a_long_night_of_the_triggerer():
    load(LOG, DAY)
    assert event_of(PartitionTrigger(LOG, [DAY], 0, 1))["failed"] is False


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "waiting for" in record.getMessage()]


def test_says_what_is_missing_once_and_again_when_it_changes(caplog, monkeypatch):
    answers = iter([["a"], ["a"], ["b"], ["b"], []])
    days = {"a": ["2026-01-03", "2026-01-04"], "b": ["2026-01-04"]}
    monkeypatch.setattr(PartitionTrigger, "look", lambda self: [d for name in next(answers) for d in days[name]])
    with caplog.at_level(logging.INFO):
        trigger = waiting(["2026-01-03", "2026-01-04"], 3600)
        monkeypatch.setattr(PartitionTrigger, "log", logging.getLogger("sensor"))
        event_of(trigger)
    first, second = messages(caplog)
    assert first.startswith(f"waiting for {LOG}: 2026-01-03 to 2026-01-04; for 1:00:00 more")
    assert second.startswith(f"waiting for {LOG}: 2026-01-04; for ")


def test_says_so_again_after_a_while(caplog, monkeypatch):
    monkeypatch.setattr(tasks, "REPEAT_SECONDS", 0.2)
    monkeypatch.setattr(PartitionTrigger, "log", logging.getLogger("sensor"))
    with caplog.at_level(logging.INFO):
        event_of(waiting([DAY], 0.7))
    assert 2 <= len(messages(caplog)) <= 4


def test_a_look_that_fails_is_tried_again(caplog, monkeypatch):
    answers = iter([OSError("storage is away"), OSError("storage is away"), []])

    def look(self):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(PartitionTrigger, "look", look)
    monkeypatch.setattr(PartitionTrigger, "log", logging.getLogger("sensor"))
    with caplog.at_level(logging.INFO):
        assert event_of(waiting([DAY], 60))["failed"] is False
    assert f"cannot look at {LOG} (2 of 30): storage is away" in caplog.text


def test_looks_that_keep_failing_are_left_to_the_retries(monkeypatch):
    def look(self):
        raise OSError("storage is away")

    monkeypatch.setattr(PartitionTrigger, "look", look)
    monkeypatch.setattr(tasks, "FAILED_LOOKS", 3)
    with pytest.raises(OSError, match="storage is away"):
        event_of(waiting([DAY], 60))


def test_many_sensors_wait_side_by_side():
    async def all_of_them() -> list[dict]:
        async def one(day: str) -> dict:
            async for event in waiting([day], 60).run():
                return event.payload

        days = [f"2026-01-{n:02}" for n in range(1, 31)]
        sensors = [asyncio.create_task(one(day)) for day in days]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(load, LOG, *days)
        return await asyncio.gather(*sensors)

    events = asyncio.run(asyncio.wait_for(all_of_them(), 30))
    assert len(events) == 30
    assert not any(event["failed"] for event in events)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        ([""], "the whole table"),
        ([DAY], DAY),
        (["2026-01-30", "2026-01-31", "2026-02-01", "2026-02-03"], "2026-01-30 to 2026-02-01, 2026-02-03"),
        (
            [f"2026-01-{n:02}" for n in range(1, 20, 2)],
            "2026-01-01, 2026-01-03, 2026-01-05, 2026-01-07, 2026-01-09 and 5 more gaps",
        ),
    ],
)
def test_days_in_words(days, words):
    assert in_words(days) == words
