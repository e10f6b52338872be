"""The sensor: what it waits for, when it goes on, when it gives up and what it says meanwhile. On real Delta tables."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from tests import airflow_home  # noqa: F401

# isort: split
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from lake_airflow import tasks
from lake_airflow.tasks import PartitionSensor, PartitionTrigger, in_words, look
from lake_airflow.timetable import DailyPartitions
from pendulum import datetime as at

from include.lake.errors import ContractError
from include.lake.project import contracts
from tests.pretend import build, load

LOG = "service_log.weverse_server_log"
PROFILES = "we_mart.ods_wv_member_profile"
ARTISTS = "we_mart.we_artist"
MEMBERS = "we_mart.wv_comm_user"
LOGS = "we_mart.wv_server_log_base"
SESSIONS = "we_mart.wv_sess_daily"
DAY = "2026-01-05"


@pytest.fixture(autouse=True)
def lake(tmp_path, monkeypatch):
    """An empty lake, sensors that look often, and each look a new one."""
    monkeypatch.setenv("LAKE_HOME", str(tmp_path))
    monkeypatch.setattr(tasks, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(tasks, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(tasks, "_newest_look", (0.0, None))
    monkeypatch.setattr(PartitionTrigger, "log", logging.getLogger("sensor"))


def sensor(table: str, *readers: str) -> PartitionSensor:
    with DAG("d", schedule=DailyPartitions("Asia/Seoul"), start_date=at(2026, 1, 1, tz="Asia/Seoul")):
        return PartitionSensor(task_id="sensor", table=table, readers=list(readers))


def waiting(table: str, *readers: str, day: str = DAY, hours: float = 12, seconds_left: float = 60) -> PartitionTrigger:
    """The trigger of a sensor, as the triggerer has it."""
    trigger = PartitionTrigger(table, list(readers), day, "Asia/Seoul", hours)
    trigger.timeout_after = datetime.now(UTC) + timedelta(seconds=seconds_left) + tasks.GRACE
    return trigger


async def first_event(trigger: PartitionTrigger) -> TriggerEvent:
    async for event in trigger.run():
        return event
    raise AssertionError("the trigger ended without an event")


def event_of(trigger: PartitionTrigger) -> TriggerEvent:
    return asyncio.run(asyncio.wait_for(first_event(trigger), 20))


def test_starts_in_the_triggerer_with_all_that_it_needs_and_the_patience_of_the_contract():
    dag = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(sensor(LOG, LOGS).dag))))
    task = dag.get_task("sensor")
    assert task.start_from_trigger
    assert task.template_fields == ["day"]  # rendered in the triggerer
    assert task.start_trigger_args.trigger_cls == "lake_airflow.tasks.PartitionTrigger"
    assert task.start_trigger_args.timeout == timedelta(hours=12) + tasks.GRACE
    assert contracts.get(LOG).patience_hours == 12
    fields = task.start_trigger_args.trigger_kwargs["__var"]
    assert fields == {"table": LOG, "readers": [LOGS], "day": tasks.DAY, "timezone": "Asia/Seoul", "hours": 12}
    trigger = PartitionTrigger(**fields)
    assert trigger.serialize() == ("lake_airflow.tasks.PartitionTrigger", fields)


def test_goes_to_the_triggerer_from_a_worker_too():
    with pytest.raises(TaskDeferred) as raised:
        sensor(LOG, LOGS).execute({})
    assert raised.value.trigger.serialize()[1]["table"] == LOG
    assert raised.value.timeout == timedelta(hours=12) + tasks.GRACE


def test_ends_well_without_a_worker_when_the_day_is_there():
    load(LOG, DAY)
    assert isinstance(event_of(waiting(LOG, LOGS)), TaskSuccessEvent)


def test_the_good_end_is_one_where_airflow_tests_a_dag_too():
    load(LOG, DAY)
    assert sensor(LOG, LOGS).give_up({}, event_of(waiting(LOG, LOGS)).payload) is None


def test_waits_for_the_day_of_the_run():
    load(LOG, "2026-01-04")
    assert list(look(LOG, [LOGS], DAY)) == [DAY]


def test_waits_for_earlier_days_too_where_the_select_reads_them():
    assert dict(contracts.get(MEMBERS).reads)[PROFILES] == 2
    load(PROFILES, "2025-12-31")
    assert list(look(PROFILES, [MEMBERS], DAY)) == ["2026-01-03", "2026-01-04", DAY]


def test_does_not_wait_for_days_before_the_first_one_of_the_input():
    load(PROFILES, "2026-01-04")
    assert list(look(PROFILES, [MEMBERS], DAY)) == [DAY]


def test_waits_for_the_days_of_all_who_read_the_table():
    assert list(look("we_mart.we_user", [MEMBERS, SESSIONS], DAY)) == [DAY]


def test_a_table_without_days_has_to_be_loaded():
    assert list(look(ARTISTS, [MEMBERS], DAY)) == [""]
    load(ARTISTS)
    assert isinstance(event_of(waiting(ARTISTS, MEMBERS)), TaskSuccessEvent)


def test_a_table_that_we_build_is_there_when_the_ledger_has_the_day_even_an_empty_one():
    assert list(look(MEMBERS, [SESSIONS], DAY)) == [DAY]
    build(MEMBERS, [DAY])
    assert isinstance(event_of(waiting(MEMBERS, SESSIONS)), TaskSuccessEvent)


@pytest.mark.parametrize(
    ("day", "error"),
    [
        ("", "this run has no day: give it one"),
        ("2026-1-5", "'2026-1-5' is not a day"),
        ("2999-01-01", "is not over in"),
    ],
)
def test_a_run_without_a_usable_day_does_not_wait(day, error):
    event = event_of(waiting(LOG, LOGS, day=day))
    with pytest.raises(AirflowFailException, match=error):
        sensor(LOG, LOGS).give_up({}, event.payload)


def test_goes_on_when_the_day_arrives():
    async def both() -> TriggerEvent:
        event = asyncio.create_task(first_event(waiting(LOG, LOGS)))
        await asyncio.sleep(0.3)
        assert not event.done()
        await asyncio.to_thread(load, LOG, DAY)
        return await event

    assert isinstance(asyncio.run(asyncio.wait_for(both(), 20)), TaskSuccessEvent)


@pytest.mark.parametrize(
    ("hours", "since", "said"), [(12, "06:00", "12 hours"), (1.0, "17:00", "1 hour"), (1.5, "16:30", "1.5 hours")]
)
def test_gives_up_after_its_patience_and_names_what_it_waited_for(hours: float, since: str, said: str):
    load(PROFILES, "2026-01-02", "2026-01-04")
    trigger = waiting(PROFILES, MEMBERS, hours=hours)
    trigger.timeout_after = datetime(2026, 1, 6, 18, 10, tzinfo=UTC)  # the patience, and 10 minutes of grace
    event = event_of(trigger)
    with pytest.raises(AirflowFailException) as raised:
        sensor(PROFILES, MEMBERS).give_up({}, event.payload)
    assert str(raised.value) == (
        f"waited for we_mart.ods_wv_member_profile (2026-01-03, 2026-01-05) since 2026-01-06 {since} UTC, for {said}"
        " (patience_hours of its contract): load or build it, then clear this task"
    )


def test_a_last_look_counts_when_the_triggerer_was_away_at_the_end():
    load(LOG, DAY)
    assert isinstance(event_of(waiting(LOG, LOGS, seconds_left=-100)), TaskSuccessEvent)


@pytest.mark.parametrize(("days", "said"), [(1, "1 day"), (2, "2 days")])
def test_the_task_of_late_days_says_of_how_many_days_none_is_stale(days: int, said: str, monkeypatch, caplog):
    monkeypatch.setattr(tasks.LateDays, "log", logging.getLogger("late"))
    run, dag = SimpleNamespace(partition_key=DAY, run_id="r", dag_id="d"), sensor(LOG).dag
    task = tasks.LateDays(task_id="late_days", tables=[LOGS], look_back_days=days)
    with caplog.at_level(logging.INFO):
        assert task.execute({"dag_run": run, "dag": dag}) == {}
    assert caplog.messages[-1] == f"nothing of the {said} before {DAY} is stale"


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "waiting for" in record.getMessage()]


def looks(monkeypatch, *answers) -> None:
    """Looks at the lake that give these days, or raise these errors, one after the other."""
    left = [dict.fromkeys(answer, "is missing") if isinstance(answer, list) else answer for answer in answers]

    def next_look(table, readers, day):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(tasks, "look", next_look)


def test_says_what_is_missing_once_and_again_when_it_changes(caplog, monkeypatch):
    two, one = ["2026-01-03", "2026-01-04"], ["2026-01-04"]
    looks(monkeypatch, two, two, one, one, [])
    with caplog.at_level(logging.INFO):
        event_of(waiting(LOG, LOGS, seconds_left=3600))
    first, second = messages(caplog)
    assert first == f"waiting for {LOG}: 2026-01-03..2026-01-04; for 1:00:00 more"
    assert second.startswith(f"waiting for {LOG}: 2026-01-04; for ")


def test_says_so_again_after_a_while(caplog, monkeypatch):
    monkeypatch.setattr(tasks, "REPEAT_SECONDS", 0.2)
    with caplog.at_level(logging.INFO):
        event_of(waiting(LOG, LOGS, seconds_left=0.7))
    assert 2 <= len(messages(caplog)) <= 4


def test_a_look_that_fails_is_tried_again(caplog, monkeypatch):
    looks(monkeypatch, OSError("storage is away"), OSError("storage is away"), [])
    with caplog.at_level(logging.INFO):
        assert isinstance(event_of(waiting(LOG, LOGS)), TaskSuccessEvent)
    assert f"cannot look at {LOG} (2 of 30): storage is away" in caplog.text


@pytest.mark.parametrize("broken_looks", [1, 2], ids=["before the first look", "as the days are put into words"])
def test_a_contract_that_is_broken_for_a_moment_ends_no_sensor(caplog, monkeypatch, broken_looks):
    get, asked = contracts.get, []

    def broken_at_first(table):
        asked.append(table)
        if len(asked) == broken_looks:
            raise ContractError("a.yaml:1: is in the middle of an edit")
        return get(table)

    monkeypatch.setattr(contracts, "get", broken_at_first)
    looks(monkeypatch, ["2026-01-03"], ["2026-01-03", "2026-01-04"], [])
    with caplog.at_level(logging.INFO):
        assert isinstance(event_of(waiting(LOG, LOGS)), TaskSuccessEvent)
    assert f"cannot look at {LOG} (1 of 30): a.yaml:1: is in the middle" in caplog.text
    assert "2026-01-03..2026-01-04; for" in messages(caplog)[-1]


def test_looks_that_keep_failing_are_left_to_the_retries(monkeypatch):
    looks(monkeypatch, OSError("storage is away"))
    monkeypatch.setattr(tasks, "FAILED_LOOKS", 3)
    with pytest.raises(OSError, match="storage is away"):
        event_of(waiting(LOG, LOGS))


def test_an_error_while_looking_leaves_no_half_look_behind(monkeypatch):
    from include.lake.state import look as freshness

    class Broken(freshness.Look):
        def absent_reasons(self, table, days):
            raise OSError("storage is away")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(freshness, "Look", Broken)
        look(LOG, [LOGS], DAY)
    assert list(look(LOG, [LOGS], DAY)) == [DAY]


def test_many_sensors_wait_side_by_side_and_share_their_looks(monkeypatch):
    from include.lake.state import look as freshness

    opened = []

    class Counted(freshness.Look):
        def __init__(self):
            opened.append(1)
            super().__init__()

    monkeypatch.setattr(freshness, "Look", Counted)
    monkeypatch.setattr(tasks, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(tasks, "LOOK_SECONDS", 0.1)
    days = [f"2026-01-{n:02}" for n in range(1, 31)]

    async def all_of_them() -> list[TriggerEvent]:
        sensors = [asyncio.create_task(first_event(waiting(LOG, LOGS, day=day))) for day in days]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(load, LOG, *days)
        return await asyncio.gather(*sensors)

    events = asyncio.run(asyncio.wait_for(all_of_them(), 30))
    assert len(events) == 30
    assert all(isinstance(event, TaskSuccessEvent) for event in events)
    assert len(opened) < 30


@pytest.mark.parametrize(
    ("days", "words"),
    [
        ([""], "the whole table"),
        ([DAY], DAY),
        (["2026-01-30", "2026-01-31", "2026-02-01", "2026-02-03"], "2026-01-30..2026-02-01, 2026-02-03"),
        (
            [f"2026-01-{n:02}" for n in range(1, 20, 2)],
            "2026-01-01, 2026-01-03, 2026-01-05, 2026-01-07, 2026-01-09 and 5 more ranges up to 2026-01-19",
        ),
    ],
)
def test_days_in_words(days, words):
    assert in_words(LOG, dict.fromkeys(days, "is missing")) == words
