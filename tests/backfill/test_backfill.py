"""Backfills: of a bad batch the good days land, what was stopped goes on, and what two want is done once."""

import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from include.lake.backfill import plan, request
from include.lake.backfill import run as backfill
from include.lake.backfill.run import Progress
from include.lake.build import runner
from include.lake.engine import engine
from include.lake.engine import spark as session
from include.lake.errors import CheckFailed, ContractError, LakeError
from include.lake.project.days import day_range
from include.lake.state import ledger
from include.lake.storage import delta_files as storage
from tests import pretend
from tests.shop import CONTRACT, SELECT, TABLE, load

DAYS = day_range("2026-01-01", "2026-01-08")
TOP = "shop.top"
FILES = {
    "shop/top.yaml": CONTRACT.replace("checks: [total >= 0]\n", ""),
    "shop/top.sql": """\
select t.name, t.total, t.day from shop.total as t where t.day between :start_date and :end_date
""",
}


@pytest.fixture
def shops(shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """event -> total -> top, eight good days of events, and builds with the session of the tests."""
    shop(FILES)
    monkeypatch.setattr(session, "connect", lambda: spark)
    load(*(("a", 1, day) for day in DAYS))
    return shop


def asking(**options: Any) -> request.Request:
    return request.check([TABLE, TOP], DAYS[0], DAYS[-1], **options)


def run(asked: request.Request, name: str = "run") -> tuple[dict[str, backfill.Result], dict[str, str], list[str]]:
    told: list[str] = []
    results, stopped = backfill.run(asked, name, told.append, Progress(plan.plan(asked, name)))
    return {result.table: result for result in results}, stopped, told


def days_of(table: str) -> list[str]:
    delta = storage.open_table(table)
    return [] if delta is None else sorted(set(delta.to_pyarrow_table()["day"].to_pylist()))


def builds_of(table: str) -> list[tuple[str, str]]:
    """The ranges of the good builds, in the order in which they were made."""
    found: dict[str, list[str]] = {}
    for row in ledger.read([table]):
        if row["status"] == "built":
            found.setdefault(row["build_id"], []).append(row["partition"])
    return [(min(days), max(days)) for days in found.values()]


@pytest.mark.spark
def test_a_table_is_one_job_and_a_second_time_nothing(shops: Any) -> None:
    told: list[str] = []
    progress = Progress(plan.plan(asking()), lambda progress: told.append(progress.line()))
    assert progress.line() == "0 of 16 partitions, 0 rows, 0:00"
    results, _ = backfill.run(asking(), "run", lambda line: None, progress)
    assert backfill.is_good(results)
    assert [(result.rows, result.jobs, result.built) for result in results] == [(8, 1, DAYS)] * 2
    assert builds_of(TABLE) == builds_of(TOP) == [(DAYS[0], DAYS[-1])]
    assert told[-1].startswith("16 of 16 partitions, 16 rows, ") and "about 0:00 left" in told[-1]
    again, _, lines = run(asking(), "again")
    assert not any(result.built for result in again.values())
    assert f"{TOP}: nothing to build" in lines


@pytest.mark.spark
@pytest.mark.parametrize("kind", ["check", "spark"])
def test_the_bad_day_is_found_and_the_good_days_land(shops: Any, kind: str) -> None:
    bad = DAYS[2]
    if kind == "check":
        load(("a", -1, bad))
    else:
        shops({"shop/total.sql": SELECT.replace("sum(event.amount)", "sum(7 div event.amount)")})
        load(("a", 0, bad))
    results, stopped, _ = run(asking())
    good = [day for day in DAYS if day != bad]
    assert days_of(TABLE) == days_of(TOP) == good
    assert list(results[TABLE].bad) == [bad] and not stopped
    assert not backfill.is_good(list(results.values()))
    assert builds_of(TABLE) == [(DAYS[0], DAYS[1]), (DAYS[3], DAYS[3]), (DAYS[4], DAYS[7])]
    assert builds_of(TOP) == [(DAYS[0], DAYS[1]), (DAYS[3], DAYS[7])]
    lines = backfill.summary(list(results.values()))
    reason = "check `total >= 0` fails 1 time" if kind == "check" else "Division by zero"
    assert any(line.startswith(f"bad: {TABLE} {bad}: ") and reason in line for line in lines)
    assert f"skipped: {TOP} {bad}: {TABLE} is missing" in lines
    # Better data, and the same again: just what is left, in any mode that it belongs to.
    load(("a", 1, bad))
    results, _, _ = run(asking(mode="missing"), "again")
    assert [result.built for result in results.values()] == [[bad], [bad]]


def test_a_batch_that_lacks_memory_is_halved_and_so_are_those_after_it(
    shops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A day collects 16 MB, and takes up to two times as much: eight days never fit, and two always do.
    monkeypatch.setenv("LAKE_ENGINE_MEMORY", "100m")
    shops({"shop/total.sql": SELECT.replace("from shop.event as event", "from shop.event as event\n"
                                            "cross join range(2000000)")
           .replace("sum(event.amount)", "cast(size(collect_list(id)) as bigint)")})  # fmt: skip
    engine().start()
    try:
        results, stopped, lines = run(request.check([TABLE], DAYS[0], DAYS[-1]))
    finally:
        engine().stop()
    assert days_of(TABLE) == DAYS and not stopped and not results[TABLE].bad
    failed = [line for line in lines if "100m of memory are too little" in line]
    assert 1 <= len(failed) <= 3, lines
    assert 1 < results[TABLE].jobs < len(DAYS)


@pytest.mark.spark
def test_an_old_day_stays_where_its_rebuild_is_bad(shops: Any) -> None:
    run(asking())
    load(("a", -1, DAYS[4]))
    results, _, _ = run(asking(), "second")
    assert days_of(TABLE) == days_of(TOP) == DAYS
    assert list(results[TABLE].bad) == [DAYS[4]]
    assert results[TOP].skipped == {"fresh": [d for d in DAYS if d != DAYS[4]], f"fresh, but {TABLE} is not": [DAYS[4]]}


@pytest.mark.spark
def test_a_wrong_select_stops_its_table_and_no_other(shops: Any) -> None:
    shops({"shop/total.sql": SELECT.replace("event.amount", "event.amonut"), "shop/side.yaml": CONTRACT,
           "shop/side.sql": SELECT})  # fmt: skip
    asked = request.check([TABLE, TOP, "shop.side"], DAYS[0], DAYS[-1])
    results, stopped, _ = run(asked)
    assert list(stopped) == [TABLE] and "amonut" in stopped[TABLE]
    assert days_of("shop.side") == DAYS
    assert results[TABLE].left or results[TABLE].bad
    assert results[TOP].skipped == {f"{TABLE} is missing": DAYS}
    assert not backfill.is_good(list(results.values()))


@pytest.mark.spark
@pytest.mark.parametrize("how", [KeyboardInterrupt, ConnectionError])
def test_what_was_stopped_goes_on_with_what_is_left(shops: Any, monkeypatch: pytest.MonkeyPatch, how: type) -> None:
    real, calls = runner.build, []

    def dies_at_the_third(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise how("the machine")
        return real(*arguments, **options)

    asked = asking(days_per_batch=2, mode="all")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "build", dies_at_the_third)
        with pytest.raises(how):
            run(asked, "mine")
    assert len(calls) == 3, "what is wrong with the machine is no reason to split"
    assert days_of(TABLE) == DAYS[:4]
    results, _, _ = run(asked, "mine")
    assert builds_of(TABLE) == [(DAYS[n], DAYS[n + 1]) for n in (0, 2, 4, 6)], "each day once"
    assert [(len(result.built), result.jobs) for result in results.values()] == [(8, 4), (8, 4)], "the run as a whole"


def hold(home: str, table: str, days: list[str], begun: Any, ended: Any) -> None:
    import os

    os.environ["LAKE_HOME"] = home
    with backfill._claimed(table, days, print):
        begun.set()
        ended.wait(30)


@pytest.mark.spark
def test_what_was_killed_after_its_commit_is_entered_by_who_goes_on(
    shops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(table: str) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ledger, "record", kill)
        run(asking())
    assert builds_of(TABLE) == []
    results, _, told = run(asking())
    assert f"{TABLE}: nothing to build" in told, "no day is due: no build enters the commit"
    assert builds_of(TABLE) == builds_of(TOP) == [(DAYS[0], DAYS[-1])]
    assert results[TABLE].built == DAYS


def test_who_wants_days_of_another_backfill_waits_for_it_and_nobody_else_does(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tables of the project itself, which the other process knows, too.
    table, another = "we_mart.wv_sess_daily", "we_mart.wv_comm_user"
    context = multiprocessing.get_context("spawn")
    begun, ended = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(lake_home), table, DAYS[:5], begun, ended))
    other.start()
    try:
        assert begun.wait(60)
        told: list[str] = []
        for free, days in (table, DAYS[5:]), (another, DAYS):
            with backfill._claimed(free, days, told.append):
                assert told == []

        def told_and_let_go(line: str) -> None:
            told.append(line)
            ended.set()

        monkeypatch.setattr(backfill, "_CLAIM_SECONDS", 0.3)
        with pytest.raises(LakeError, match=r"waited 0 s for another backfill"), backfill._claimed(table, DAYS, print):
            pass
        monkeypatch.setattr(backfill, "_CLAIM_SECONDS", 30)
        with backfill._claimed(table, DAYS[4:], told_and_let_go):
            what = f"another backfill that is at some of the days {DAYS[4]}..{DAYS[-1]} of {table}"
            assert told == [f"waiting for {what}"]
    finally:
        ended.set()
        other.join(30)


@pytest.mark.parametrize(
    ("error", "of_the_rows"),
    [
        (CheckFailed("2 rows break it", {}), True),
        (Exception("[DIVIDE_BY_ZERO] Division by zero. SQLSTATE: 22012"), True),
        (Exception("[SCALAR_SUBQUERY_TOO_MANY_ROWS] More than one row. SQLSTATE: 21000"), True),
        (Exception("[UNRESOLVED_COLUMN] SQLSTATE: 42703"), False),
        (Exception("Connection refused"), False),
        (ContractError("a.sql: [INVALID_PARAMETER_VALUE] it is the SELECT. SQLSTATE: 22023"), False),
        (OSError("storage is away"), False),
        (MemoryError(), False),
    ],
)
def test_only_rows_are_a_reason_to_split(error: Exception, of_the_rows: bool) -> None:
    assert backfill.is_of_the_rows(error) == of_the_rows


@pytest.mark.parametrize("bad", [[], [0], [7], [0, 7], [3, 4], list(range(8))])
def test_halving_takes_few_builds(
    bad: list[int], project: Any, lake_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Spark: of 8 days with one bad day at most 7 builds, and each good day is built."""
    project(pretend.files_of({pretend.BASE: ["shop.event"]}))
    pretend.load("shop.event", *DAYS)
    tried: Counter = Counter()

    def build(table: str, first: str, last: str, **options: Any) -> runner.Outcome:
        days = day_range(first, last)
        if any(DAYS[n] in days for n in bad):
            tried["bad"] += 1
            raise CheckFailed("no", {})
        tried["good"] += len(days)
        return runner.Outcome(table, first, last, days=days, rows=1)

    monkeypatch.setattr(runner, "build", build)
    asked = request.check([pretend.BASE], DAYS[0], DAYS[-1])
    progress = Progress(plan.plan(asked))
    found = backfill.run_table(asked, pretend.BASE, "run", lambda line: None, progress)
    assert list(found) == [DAYS[n] for n in bad]
    assert tried["good"] == 8 - len(bad) and progress.done == 8
    assert tried["bad"] <= 4 or len(bad) > 1


def test_progress_learns_from_what_is_done(lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request.Request(("a.b", "a.c"), DAYS[0], DAYS[-1])
    tables = [
        plan.TablePlan(name, (plan.Batch(DAYS[0], DAYS[-1], 8, seconds),))
        for name, seconds in (("a.b", 80), ("a.c", 8))
    ]
    progress = Progress(plan.Plan(asked, tuple(tables)))
    now = progress.began
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert progress.line() == "0 of 16 partitions, 0 rows, 0:00, about 1:28 left"
    progress.add("a.b", 4, 1234)
    now += 20  # half of what the plan says
    assert progress.line() == "4 of 16 partitions, 1,234 rows, 0:20, about 0:24 left"
