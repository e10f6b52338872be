"""What a backfill is going to do: on ledgers made by hand, without Spark."""

import time
from pathlib import Path
from typing import Any

import pytest

from include.lake.backfill import plan, request
from include.lake.errors import UsageError
from include.lake.project import contracts, lineage
from include.lake.project.days import day_range, days_before, last_finished_day
from tests.pretend import BASE, DAYS, TOP, build, files_of, load

WIDE = "shop.wide"


@pytest.fixture
def shop(project: Any, lake_home: Path) -> Any:
    """event (a source) -> base -> top; wide reads base of two earlier days, too."""
    project(files_of({BASE: ["shop.event"], TOP: [BASE], WIDE: [BASE]}, {WIDE: "reads: {shop.base: 2}\n"}))
    load("shop.event", *DAYS)
    return project


def planned(*names: str, first: str = DAYS[0], last: str = DAYS[-1], run: str = "", **options: Any) -> dict[str, Any]:
    """Table -> days of each batch and what is skipped."""
    found = plan.plan(request.check(list(names) or [TOP], first, last, **options), run)
    return {
        table.table: ([(batch.first[-2:], batch.last[-2:]) for batch in table.batches], table.skipped)
        for table in found.tables
    }


def test_tables_come_in_order_and_what_the_plan_builds_is_there_for_the_next(shop) -> None:
    assert planned(TOP, BASE) == {BASE: ([("01", "10")], {}), TOP: ([("01", "10")], {})}
    assert list(planned(BASE, downstream=True)) == lineage.in_order([BASE, TOP, WIDE])
    assert planned(TOP) == {TOP: ([], {"shop.base is missing": DAYS})}


def test_a_day_whose_inputs_nobody_has_is_skipped_through_every_level(shop) -> None:
    load_last = days_before(DAYS[0], 1)
    found = planned(BASE, TOP, first=load_last)
    assert found[BASE] == ([("01", "10")], {"shop.event is missing": [load_last]})
    assert found[TOP] == ([("01", "10")], {"shop.base is missing": [load_last]})


def test_earlier_days_that_the_plan_itself_builds_are_waited_for(shop) -> None:
    load("shop.event", days_before(DAYS[0], 3))  # and a gap of two days after it
    first = days_before(DAYS[0], 3)
    found = planned(BASE, WIDE, first=first)
    assert found[BASE][0] == [(first[-2:], first[-2:]), ("01", "10")]
    # wide of the first days would read days of the gap: base has them neither now nor after the plan.
    assert found[WIDE] == ([(first[-2:], first[-2:]), ("03", "10")], {"shop.base is missing": day_range(
        days_before(DAYS[0], 2), DAYS[1])})  # fmt: skip


def test_what_is_fresh_is_skipped_and_what_reads_a_rebuilt_day_is_due(shop) -> None:
    build(BASE, DAYS)
    build(TOP, DAYS)
    build(WIDE, DAYS)
    assert planned(BASE, TOP) == {BASE: ([], {"fresh": DAYS}), TOP: ([], {"fresh": DAYS})}
    load("shop.event", DAYS[4])
    found = planned(BASE, downstream=True)
    assert found[BASE][0] == found[TOP][0] == [("05", "05")]
    assert found[WIDE][0] == [("05", "07")], "its window has the day"
    # Without the input in the plan, a build would read what is there already, and the reader is fresh for that.
    assert planned(TOP)[TOP][1]["fresh, but shop.base is not"] == [DAYS[4]]


def test_modes(shop) -> None:
    build(BASE, DAYS[:6])
    build(BASE, DAYS[5:6], "failed")  # was built once: stale, too
    build(BASE, DAYS[6:7], "failed")  # never built: missing, too
    load("shop.event", DAYS[1])

    def days(mode: str, run: str = "") -> list[tuple[str, str]]:
        return planned(BASE, mode=mode, run=run)[BASE][0]

    assert days("missing") == [("07", "10")]
    assert days("stale") == [("02", "02"), ("06", "06")]
    assert days("failed") == [("06", "07")]
    assert days("due") == [("02", "02"), ("06", "10")]
    assert days("all") == [("01", "10")]
    # `all` goes on where this run was stopped; what became stale since is built once more.
    assert days("all", run="test") == days("due")
    skipped = planned(BASE, mode="missing")[BASE][1]
    assert skipped["stale, and the mode is missing"] == [DAYS[1]]
    assert skipped["failed, and the mode is missing"] == [DAYS[5]]


def test_a_mode_holds_for_the_readers_of_what_is_rebuilt(shop) -> None:
    build(BASE, DAYS[:9])
    build(TOP, DAYS[:9])
    load("shop.event", DAYS[2])
    assert planned(BASE, TOP, mode="missing")[TOP][0] == [("10", "10")]
    assert planned(BASE, TOP, mode="stale")[TOP][0] == [("03", "03")]


def test_batches_are_consecutive_days_of_the_size_asked_for(shop) -> None:
    build(BASE, DAYS[3:4])
    assert planned(BASE, days_per_batch=2)[BASE][0] == [
        ("01", "02"),
        ("03", "03"),
        ("05", "06"),
        ("07", "08"),
        ("09", "10"),
    ]
    assert planned(BASE, days_per_batch="100")[BASE][0] == [("01", "03"), ("05", "10")]


def test_automatic_batches_fit_the_memory(shop, monkeypatch) -> None:
    build(BASE, DAYS[:2], bytes=30_000_000)
    assert planned(TOP, BASE)[TOP][0] == [("01", "04"), ("05", "08"), ("09", "10")], "60 MB a day, 256 MB a batch"
    monkeypatch.setenv("LAKE_ENGINE_MEMORY", "512m")
    assert planned(TOP, BASE)[TOP][0] == [(day[-2:], day[-2:]) for day in DAYS]
    monkeypatch.setenv("LAKE_ENGINE_MEMORY", "lots")
    with pytest.raises(UsageError, match="LAKE_ENGINE_MEMORY=lots is no amount of memory"):
        planned(TOP, BASE)


def test_the_estimate_follows_earlier_builds(shop) -> None:
    asked = request.check([BASE, TOP], DAYS[0], DAYS[-1])
    assert plan.plan(asked).seconds is None
    build(BASE, DAYS[:2], seconds=13.0)  # 3 s of any job, and 5 s a day
    base, top = plan.plan(asked).tables
    assert (base.seconds, top.seconds) == (3 + 8 * 5, 3 + 10 * 5), "a table without builds takes as long as the others"
    lines = plan.plan(asked).lines()
    assert lines[0] == "backfill of 2026-01-01..2026-01-10 (10 days), mode due: " + request.MODES["due"]
    assert lines[2].split() == ["shop.base", "8", "1", "0:43", "2026-01-03", "2026-01-10"]
    assert lines[4].split() == ["together", "18", "2", "1:36"]
    assert lines[6] == "  shop.base: 2 days (2026-01-01..2026-01-02): fresh"


def test_tables_are_named_by_table_step_or_dag() -> None:
    def tables(*names: str, **options: Any) -> tuple[str, ...]:
        return request.check(list(names), DAYS[0], DAYS[0], **options).tables

    assert tables("members") == ("we_mart.wv_comm_user",)
    assert set(tables("analytics_we_mart_wv1_daily")) == {"we_mart.wv_server_log_base", "we_mart.wv_sess_daily"}
    assert tables("service_log.weverse_server_log", downstream=True) == (
        "we_mart.wv_server_log_base",
        "we_mart.wv_sess_daily",
    )
    assert tables("analytics_we_mart_wv1_daily.sessions") == ("we_mart.wv_sess_daily",)
    every = set(request.names())
    assert {"members", "logs", "sessions", "analytics_we_mart_wv1_daily", "we_mart.wv_comm_user"} <= every
    assert "analytics_we_mart_wv1_daily.sessions" in every
    assert set(tables(*every, downstream=True)) == {
        name for name in contracts.load_all() if contracts.get(name).is_built
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"names": []}, "name at least one table, step or DAG"),
        ({"names": ["membrs"]}, "there is no table, step or DAG 'membrs': did you mean members?"),
        ({"names": ["'; drop table x"]}, "there is no table, step or DAG"),
        ({"names": ["we_mart.we_user"]}, "we_mart.we_user is a source"),
        ({"first": "2026-01-07"}, "upside down"),
        ({"first": "2026-1-7"}, "is not a day"),
        ({"last": "2999-01-01"}, "2999-01-01 is not over in Asia/Seoul: the newest day of we_mart.wv_comm_user"),
        ({"first": "2016-01-01"}, "if you mean more than three years, say so with --yes"),
        ({"mode": "everything"}, "there is no mode 'everything': choose one of due, missing, stale, failed, all"),
        ({"days_per_batch": 0}, "days per batch '0'"),
        ({"days_per_batch": "many"}, "days per batch 'many'"),
        ({"days_per_batch": -3}, "days per batch '-3'"),
        ({"days_per_batch": 2.5}, "days per batch '2.5'"),
    ],
)
def test_what_makes_no_sense_is_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as error:
        request.check(**{"names": ["members"], "first": "2026-01-05", "last": "2026-01-06", **options})
    assert told in str(error.value) and "\n" not in str(error.value)


def test_the_newest_day_is_that_of_the_tables_timezone() -> None:
    assert request.check(["members"], DAYS[0], last_finished_day("Asia/Seoul")).last
    assert request.check(["members"], "2016-01-01", DAYS[0], yes=True).days[0] == "2016-01-01"


def test_a_plan_of_365_days_of_50_tables_does_not_look_again_for_each_day(project, lake_home: Path) -> None:
    days = day_range("2025-01-01", "2025-12-31")
    assert len(days) == 365
    tables = [f"shop.t{n:02}" for n in range(50)]
    reads = {table: ["shop.event", *([tables[n - 10]] if n >= 10 else [])] for n, table in enumerate(tables)}
    extra = {
        table: f"reads: {{shop.event: {'all' if n % 10 else 3}}}\n" for n, table in enumerate(tables) if n % 5 == 0
    }
    project(files_of(reads, extra))
    load("shop.event", *days)
    for number, table in enumerate(tables[:30], 1):  # the rest was never built
        code = "old" if number % 3 else lineage.code_id(table)
        build(table, days, seconds=9.0, code_id=code, inputs={})
    asked = request.check(tables, days[0], days[-1])
    began = time.process_time()
    found = plan.plan(asked)
    seconds = time.process_time() - began
    assert found.partitions == 365 * 50 and found.jobs == 50 * 4
    # Machines differ. This is far above what any takes, and far below a look for each day; `make bench-looks` measures.
    assert seconds < 20, f"{seconds:.2f} s"
