"""Tables by weeks and by months: what they wait for, what makes them stale, how they are built and planned."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.lake.backfill import plan, request
from include.lake.build import late, runner
from include.lake.errors import InputsMissing, UsageError
from include.lake.project import contracts
from include.lake.project.days import day_range
from include.lake.state.look import Look
from include.lake.storage import delta_files as storage
from tests.pretend import SOURCE, build, load

WEEK, MONTH, OF_WEEK, RECENT = "shop.weekly", "shop.monthly", "shop.of_week", "shop.recent_weeks"


def contract(column: str, more: str = "") -> str:
    return f"""\
about: Amounts.
key: []
partitioned_by: [{column}]
columns: [{{name: amount, type: bigint}}, {{name: {column}, type: string}}]
{more}"""


FILES = {
    "shop/event.yaml": SOURCE,
    "shop/weekly.yaml": contract("part_week", "checks: ['count(*) = 1']\n"),
    "shop/weekly.sql": """\
select
    sum(event.amount) as amount,
    date_format(date_trunc('week', to_date(event.day)), 'yyyy-MM-dd') as part_week
from shop.event as event
where event.day between :start_date and :end_date
group by 2
""",
    "shop/monthly.yaml": contract("part_month"),
    "shop/monthly.sql": """\
select sum(event.amount) as amount, substr(event.day, 1, 7) as part_month
from shop.event as event
where event.day between :start_date and :end_date
group by 2
""",
    # Days that read the week they are in, and weeks that read two weeks before theirs.
    "shop/of_week.yaml": contract("day"),
    "shop/of_week.sql": """\
select event.amount, event.day
from shop.event as event
cross join shop.weekly as week
where event.day between :start_date and :end_date
""",
    "shop/recent_weeks.yaml": contract("part_week", "reads: {shop.weekly: 2}\n"),
    "shop/recent_weeks.sql": """\
select week.amount, week.part_week
from shop.weekly as week
where week.part_week between :start_date and :end_date
""",
}
# Two whole weeks, Mondays 2025-12-29 and 2026-01-05, and January.
DAYS = day_range("2025-12-29", "2026-01-31")
WEEKS = ["2025-12-29", "2026-01-05", "2026-01-12", "2026-01-19"]


@pytest.fixture
def shop(project: Any, lake_home: Path) -> Any:
    project(FILES)
    return project


def states(table: str, *partitions: str) -> list[str]:
    lake = Look()
    return [lake.state(table, partition).state for partition in partitions]


def test_a_week_and_a_month_wait_for_all_their_days(shop: Any) -> None:
    load("shop.event", *[day for day in DAYS if day != "2026-01-08"])
    lake = Look()
    assert lake.absent_inputs(WEEK, "2025-12-29", "2025-12-29") == {}
    assert lake.absent_inputs(WEEK, "2025-12-29", "2026-01-12") == {"shop.event": {"2026-01-08": "is missing"}}
    assert lake.absent_inputs(MONTH, "2026-01", "2026-01") == {"shop.event": {"2026-01-08": "is missing"}}
    assert list(lake.absent_inputs(MONTH, "2025-12", "2025-12")["shop.event"]) == day_range("2025-12-01", "2025-12-28")
    with pytest.raises(InputsMissing, match=r"shop.weekly 2026-01-05 has to wait: shop.event of 2026-01-08 is missing"):
        runner.build(WEEK, "2026-01-05", "2026-01-05", log=lambda line: None)
    # A command takes days, whatever the grain.
    for table, partition, days in ((OF_WEEK, "2026-01-07", "2026-01-07"), (RECENT, "2026-01-19", "2026-01-25")):
        with pytest.raises(InputsMissing, match=rf" \./lake build {table} --upstream --from {partition} --to {days}$"):
            runner.build(table, partition, partition, log=lambda line: None)


def test_a_late_day_makes_its_week_and_its_month_stale_and_no_other(shop: Any) -> None:
    load("shop.event", *DAYS)
    build(WEEK, WEEKS)
    build(MONTH, ["2026-01"])
    build(OF_WEEK, DAYS[:28])
    build(RECENT, WEEKS)
    load("shop.event", "2026-01-07")
    assert states(WEEK, *WEEKS) == ["fresh", "stale", "fresh", "fresh"]
    assert states(MONTH, "2026-01") == ["stale"]
    # Through the week every day of it, and the weeks that read it as an earlier one.
    assert [day for day in DAYS[:28] if states(OF_WEEK, day) == ["stale"]] == day_range("2026-01-05", "2026-01-11")
    assert states(RECENT, *WEEKS) == ["fresh", "stale", "stale", "stale"]
    assert late.stale_days(WEEK, "2026-01-12", 1) == late.stale_days(WEEK, "2026-01-19", 8) == ["2026-01-05"]
    assert late.stale_days(WEEK, "2026-01-19", 7) == late.stale_days(WEEK, "2026-01-12", 0) == []
    assert late.stale_days(MONTH, "2026-02", 1) == ["2026-01"]


def test_a_range_of_days_means_the_weeks_and_months_that_it_touches(shop: Any) -> None:
    load("shop.event", *DAYS)
    asked = request.check([WEEK, MONTH, OF_WEEK], "2026-01-03", "2026-01-12")
    planned = {table.table: [(batch.first, batch.last) for batch in table.batches] for table in plan.plan(asked).tables}
    assert planned == {
        WEEK: [("2025-12-29", "2026-01-12")], MONTH: [("2026-01", "2026-01")], OF_WEEK: [("2026-01-03", "2026-01-12")],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("table", "partition", "error"),
    [
        (WEEK, "2026-01-06", "2026-01-06 is a Tuesday: a week is named by its Monday, here 2026-01-05"),
        (WEEK, "2026-01", "'2026-01' is not a week"),
        (MONTH, "2026-01-05", "'2026-01-05' is not a month"),
        (OF_WEEK, "2026-01", "'2026-01' is not a day"),
        (MONTH, "2026-01' or '1'='1", "is not a month"),
    ],
)
def test_another_key_is_refused(shop: Any, table: str, partition: str, error: str) -> None:
    with pytest.raises(UsageError) as raised:
        runner.build(table, partition, partition, log=lambda line: None)
    assert error in str(raised.value)


def test_what_is_not_over_is_left_for_another_time(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from include.lake.project import days, periods

    monkeypatch.setattr(periods, "last_finished_day", lambda zone, now=None: "2026-01-14")
    assert days.last_finished_day("UTC") != "2026-01-14"
    asked = request.check([WEEK], "2026-01-01", "2026-01-14")
    assert asked.partitions(WEEK) == ["2025-12-29", "2026-01-05"]
    with pytest.raises(UsageError, match=r"2026-01-12 is not over in UTC: the newest week of shop.weekly that can be"):
        request.check([WEEK], "2026-01-13", "2026-01-14")
    # The days of such a range are built all the same, and the plan names the week.
    asked = request.check([OF_WEEK, WEEK], "2026-01-13", "2026-01-14")
    assert asked.partitions(OF_WEEK) == ["2026-01-13", "2026-01-14"] and not asked.partitions(WEEK)
    assert {one.table: one.skipped for one in plan.plan(asked).tables}[WEEK] == {"not over yet": ["2026-01-12"]}


def rows(table: str) -> list[tuple[Any, str]]:
    snapshot = storage.open(table)
    column = str(contracts.get(table).day_column)
    assert snapshot is not None
    return sorted((row[column], row["amount"]) for row in storage.rows(snapshot).to_pylist())


def test_weeks_and_months_are_built_together_and_one_by_one_to_the_same_rows(shop: Any, spark: Any) -> None:

    def deliver(days: list[str], amount: int) -> None:
        event = contracts.get("shop.event")
        columns = {"amount": [amount] * len(days), "day": days}
        storage.replace(event, pa.table(columns, schema=storage.arrow_schema(event)))

    lines: list[str] = []

    def make(table: str, first: str, last: str) -> list[str]:
        return runner.build(table, first, last, spark=spark, log=lines.append).days

    deliver(DAYS, 1)
    assert make(WEEK, WEEKS[0], WEEKS[1]) == WEEKS[:2]
    assert rows(WEEK) == [("2025-12-29", 7), ("2026-01-05", 7)]
    assert make(MONTH, "2026-01", "2026-01") == ["2026-01"]
    assert rows(MONTH) == [("2026-01", 31)]
    deliver(["2026-01-07"], 10)
    assert make(WEEK, WEEKS[0], WEEKS[2]) == ["2026-01-05", "2026-01-12"], "what is fresh stays"
    assert lines[-1].startswith(f"{WEEK} 2026-01-05..2026-01-12 built: 2 rows in ")
    assert lines[-1].endswith(", already fresh: 1")
    assert rows(WEEK) == [("2025-12-29", 7), ("2026-01-05", 16), ("2026-01-12", 7)]
    assert make(MONTH, "2026-01", "2026-01") == ["2026-01"] and rows(MONTH) == [("2026-01", 40)]
    assert lines[-1].startswith(f"{MONTH} 2026-01 built: 1 row in ") and "fresh" not in lines[-1]
    assert make(WEEK, WEEKS[0], WEEKS[2]) == [] == make(MONTH, "2026-01", "2026-01")
    assert states(WEEK, *WEEKS[:3]) == ["fresh"] * 3 and states(MONTH, "2026-01") == ["fresh"]
