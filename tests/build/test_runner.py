"""One table through the runner: what is published, what is refused, what is built again."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from include.lake import settings
from include.lake.build import checks, runner
from include.lake.errors import CheckFailed, ContractError, InputsMissing, UsageError
from include.lake.state import ledger
from include.lake.state.look import Look
from include.lake.storage import delta_files as storage
from include.lake.words import counted
from tests import pretend
from tests.conftest import ENGINES
from tests.shop import CONTRACT, DAY, LAST, NEXT, SELECT, TABLE, build, load

pytestmark = pytest.mark.spark


def newest() -> dict[str, Any]:
    """The ledger row of the newest try."""
    return max(ledger.read([TABLE]), key=lambda row: row["built_at"])


def published() -> list[tuple]:
    delta = storage.open_table(TABLE)
    if delta is None:
        return []
    return sorted(((row["name"], row["total"], row["day"]) for row in delta.to_pyarrow_table().to_pylist()), key=str)


def test_a_range_is_one_commit_with_its_build_record(shop, spark) -> None:
    load(("a", 1, DAY), ("a", 2, DAY), ("nobody", 9, DAY), (None, 3, NEXT))
    outcome = build(spark, DAY, NEXT, run="dag/run")
    assert (outcome.state, outcome.days, outcome.rows) == ("built", [DAY, NEXT], 2)
    assert outcome.dropped == {"nameless": 1}
    assert published() == [("a", 3, DAY), (None, 3, NEXT)]
    delta = storage.open_table(TABLE)
    assert delta is not None and delta.version() == 1, "one commit to create the table, one for the build"
    record = json.loads(delta.history(1)[0]["userMetadata"])
    assert record["table"] == TABLE and record["run"] == "dag/run"
    assert record["days"][DAY]["rows"] == 1 and record["days"][DAY]["dropped"] == {"nameless": 1}
    first, second = ledger.read([TABLE])
    assert (first["partition"], first["rows"], first["dropped"], first["version"]) == (DAY, 1, {"nameless": 1}, 1)
    assert (second["partition"], second["rows"], second["dropped"], second["build_days"]) == (NEXT, 1, {}, 2)
    assert first["build_id"] == second["build_id"] == record["build_id"]
    assert first["bytes"] > 0 and first["seconds"] > 0 and first["checks"]["total >= 0"] == 0


@pytest.mark.engine("spark")
def test_korean_comments_are_in_the_delta_table_and_follow_the_contract(shop, spark) -> None:
    load(("a", 1, DAY))
    build(spark)
    shop(
        {
            "shop/total.yaml": CONTRACT.replace("합계}", "총액}").replace(
                "  - {name: day", "  - {name: more, type: int}\n  - {name: day"
            ),
            "shop/total.sql": SELECT.replace("event.day,", "1 as more, event.day,", 1),
        }
    )
    build(spark)
    path = Path(storage.address(TABLE))
    described = {
        row["col_name"]: (row["data_type"], row["comment"]) for row in spark.sql(f"describe delta.`{path}`").collect()
    }
    assert described["name"] == ("string", "이름")
    assert described["total"] == ("bigint", "총액")
    assert described["more"][0] == "int"
    assert spark.sql(f"describe detail delta.`{path}`").first()["description"] == "하루의 합계."


def test_fresh_days_are_not_built_again_and_a_late_file_makes_just_its_day_stale(shop, spark) -> None:
    load(("a", 1, DAY), ("a", 1, NEXT))
    build(spark, DAY, NEXT)
    again = build(spark, DAY, NEXT)
    assert (again.state, again.days) == ("fresh", []) and "fresh" in again.note
    load(("a", 5, NEXT))
    lake = Look()
    assert (lake.state(TABLE, DAY).state, lake.state(TABLE, NEXT).state) == ("fresh", "stale")
    assert "shop.event changed" in lake.state(TABLE, NEXT).why
    assert build(spark, DAY, NEXT).days == [NEXT]
    assert published() == [("a", 1, DAY), ("a", 5, NEXT)]
    assert build(spark, DAY, NEXT, force=True).days == [DAY, NEXT]


def test_a_day_that_another_has_built_since_the_first_look_is_not_built_again(shop, spark, monkeypatch) -> None:
    load(("a", 1, DAY))
    consecutive = runner._consecutive

    def another_comes_first(contract, days):
        with monkeypatch.context() as patch:
            patch.setattr(runner, "_consecutive", consecutive)
            assert build(spark).days == [DAY]
        return consecutive(contract, days)

    monkeypatch.setattr(runner, "_consecutive", another_comes_first)
    outcome = build(spark)
    assert outcome.days == [] and f"{TABLE} {DAY} is fresh: " in outcome.note
    assert [row["status"] for row in ledger.read([TABLE])] == ["built"]


def test_the_last_line_names_the_days_that_were_built_and_counts_the_fresh_ones(shop, spark) -> None:
    load(("a", 1, DAY), ("a", 1, NEXT), ("a", 1, LAST))
    build(spark, NEXT)
    lines: list[str] = []
    assert build(spark, DAY, LAST, log=lines.append).note == lines[-1]
    assert lines[-1].startswith(f"{TABLE} {DAY}, {LAST} built: 2 rows in ")
    assert lines[-1].endswith(" s, already fresh: 1")
    assert "fresh" not in build(spark, DAY, LAST, force=True).note
    load(("a", 2, DAY))
    with pytest.raises(InputsMissing):  # the day that waits is neither
        build(spark, DAY, "2026-01-08", log=lines.append)
    assert lines[-1].startswith(f"{TABLE} {DAY} built: 1 row in ") and lines[-1].endswith(", already fresh: 2")
    load(("a", 1, DAY), ("a", 1, NEXT), ("a", -1, LAST))
    build(spark, NEXT)
    with pytest.raises(CheckFailed):
        build(spark, DAY, LAST, log=lines.append)
    assert lines[-1] == f"{TABLE} {DAY} built before that, and stays: 1 row"


@pytest.mark.parametrize("late", [False, True])
def test_who_was_overtaken_while_computing_recognises_finished_work(shop, spark, monkeypatch, late) -> None:
    load(("a", 1, DAY))
    audit = checks.audit

    def and_another_comes(*arguments: Any) -> checks.Audit:
        monkeypatch.setattr(checks, "audit", audit)
        found = audit(*arguments)
        if late:
            load(("a", 5, DAY))
        assert build(spark).state == "built"
        return found

    monkeypatch.setattr(checks, "audit", and_another_comes)
    told: list[str] = []
    assert build(spark, log=told.append).state == "fresh"
    assert any("another build of these days came first" in line for line in told)
    assert published() == [("a", 5 if late else 1, DAY)]
    assert [row["status"] for row in ledger.read([TABLE])] == ["built"]
    assert Look().state(TABLE, DAY).state == "fresh"


@ENGINES
def test_who_commits_right_on_top_of_newer_rows_builds_again(shop, spark, monkeypatch) -> None:
    """The other build comes between the last look and the commit, where Spark tells nobody of it."""
    load(("a", 1, DAY))
    overtaken = runner._overtaken

    def and_another_comes(*arguments: Any) -> bool:
        monkeypatch.setattr(runner, "_overtaken", overtaken)
        assert not overtaken(*arguments)
        load(("a", 5, DAY))
        # In a session of its own: views of a session are those of one build.
        assert build(spark.newSession() if settings.engine() == settings.SPARK else None).state == "built"
        return False

    monkeypatch.setattr(runner, "_overtaken", and_another_comes)
    told: list[str] = []
    build(spark, log=told.append)
    assert any("looking again" in line for line in told)
    assert published() == [("a", 5, DAY)]
    assert Look().state(TABLE, DAY).state == "fresh"


def test_another_select_makes_days_stale(shop, spark) -> None:
    load(("a", 1, DAY))
    build(spark)
    shop({"shop/total.sql": SELECT.replace("sum(event.amount)", "sum(event.amount + 1)")})
    assert Look().state(TABLE, DAY).why == "the SELECT or the contract has changed since the build"
    assert build(spark).state == "built"
    assert published() == [("a", 2, DAY)]


def test_days_that_are_not_next_to_each_other_are_commits_of_their_own(shop, spark) -> None:
    load(("a", 1, DAY), ("a", 1, NEXT), ("a", 1, LAST))
    build(spark, NEXT)
    assert build(spark, DAY, LAST).days == [DAY, LAST]
    assert len(published()) == 3


def test_no_rows_over_no_rows_counts_as_built(shop, spark) -> None:
    load(("nobody", 1, DAY))
    assert (build(spark).state, published()) == ("built", [])
    assert Look().state(TABLE, DAY).rows == 0
    assert build(spark).state == "fresh"


def test_an_empty_day_counts_as_built_and_old_rows_go(shop, spark) -> None:
    load(("a", 1, DAY))
    build(spark)
    load(("nobody", 1, DAY))
    outcome = build(spark)
    assert (outcome.state, outcome.rows, outcome.dropped) == ("built", 0, {"nameless": 1})
    assert published() == []
    state = Look().state(TABLE, DAY)
    assert (state.state, state.rows) == ("fresh", 0)
    assert build(spark).state == "fresh"


@pytest.mark.parametrize(
    ("bad", "contract", "check", "shown"),
    [
        (("a", -7, DAY), CONTRACT, "total >= 0", "name=a, total=-7"),
        (("a", None, DAY), CONTRACT, "total >= 0", "total=None"),
        (("a", 4, DAY), CONTRACT.replace("key: [name]", "key: [total]"), "key (total) occurs once a day", "total=4"),
        (
            (None, 4, DAY),
            CONTRACT.replace("nullable: true", "nullable: false"),
            "name is not null",
            "name=None, total=4",
        ),
    ],
)
def test_what_fails_a_check_is_never_visible(shop, spark, bad, contract, check, shown) -> None:
    load(("a", 1, DAY), ("b", 4, DAY))
    build(spark)
    before = published()
    shop({"shop/total.yaml": contract})
    load(bad, ("b", 4, DAY))
    with pytest.raises(CheckFailed) as error:
        build(spark)
    assert f"check `{check}` fails 1 time" in str(error.value) and shown in str(error.value).splitlines()[-1]
    assert published() == before
    state = Look().state(TABLE, DAY)
    assert state.state == "failed" and check in state.why
    assert newest()["status"] == "failed"
    shop({"shop/total.yaml": CONTRACT})
    load(("a", 2, DAY))
    assert build(spark).state == "built"
    assert published() == [("a", 2, DAY)]


def with_checks(*checks: str) -> dict[str, str]:
    lines = "".join(f"  - {check}\n" for check in checks)
    return {"shop/total.yaml": CONTRACT.replace("checks: [total >= 0]\n", f"checks:\n{lines}")}


CHECKS = {  # -> how often it fails
    "sum(total) < 10": 1,
    "count(*) >= 2": 2,  # NEXT has one row, LAST has none
    "max(total) is null or max(name) <> 'c'": 1,
    "select name from this where total > 5": 2,
    "select this.name from this join shop.event as e on e.name = this.name and e.amount <> this.total": 4,
    "select this.name from this join shop.total as o on o.name = this.name where this.total > 2 * o.total": 1,
    "select name from this where day > :start_date": 1,
}


def test_checks_of_days_and_selects_are_counted(shop, spark) -> None:
    load(("a", 1, DAY), ("b", 1, DAY))
    build(spark)
    load(("a", 6, DAY), ("b", 1, DAY), ("b", 1, DAY), ("c", 2, NEXT), ("c", 4, NEXT))
    load(("nobody", 1, LAST))
    before = published()
    shop(with_checks(*map(json.dumps, CHECKS)))
    with pytest.raises(CheckFailed) as error:
        build(spark, DAY, LAST)
    for check, count in CHECKS.items():
        assert f"`{check}` fails {counted(count, 'time')}" in str(error.value)
    assert published() == before
    assert CHECKS.items() <= newest()["checks"].items()
    shop(with_checks(*(json.dumps({"warn": check}) for check in CHECKS)))
    told: list[str] = []
    outcome = build(spark, DAY, LAST, log=told.append)
    assert outcome.warnings == CHECKS
    assert all(any(f"WARNING: check `{check}`" in line for line in told) for check in CHECKS)
    assert published() == [("a", 6, DAY), ("b", 2, DAY), ("c", 6, NEXT)]
    assert CHECKS.items() <= newest()["checks"].items()


def test_all_failed_checks_are_named_and_sensitive_values_masked(shop, spark) -> None:
    contract = CONTRACT.replace("type: string, nullable: true", "type: string, nullable: true, sensitive: true")
    shop({"shop/total.yaml": contract.replace("[total >= 0]", "[total >= 0, total < 100]")})
    load(*((f"secret{n}", -1, DAY) for n in range(30)), ("rich", 1000, DAY))
    with pytest.raises(CheckFailed) as error:
        build(spark)
    first, *rows = str(error.value).splitlines()
    assert "`total >= 0` fails 30 times, `total < 100` fails 1 time" in first
    assert rows == [f"name=***, total=-1, day={DAY}"] * 20


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("total >", "does not parse: something is missing, near `>`"),
        ("total", "is a column and no condition: write one, such as `total is not null`"),
        ("rand() < 1", "rand() makes two builds differ"),
        ("select name from shop.other as o", "reads shop.other; there are shop.event, shop.total, this"),
        ("total > (select 1)", "is a SELECT that gives the rows"),
    ],
)
def test_a_wrong_check_is_told_without_spark(shop, check, told) -> None:
    from include.lake.project import lineage

    shop(with_checks(json.dumps(check)))
    with pytest.raises(ContractError, match=r"shop/total\.yaml") as error:
        lineage.parsed_checks(TABLE)
    assert told in str(error.value)


def test_a_key_may_come_back_on_another_day(shop, spark) -> None:
    load(("a", 1, DAY), ("a", 1, NEXT), (None, 1, DAY), (None, 1, NEXT))
    assert build(spark, DAY, NEXT).rows == 4


def test_a_row_outside_the_range_is_an_error(shop, spark) -> None:
    shop({"shop/total.sql": SELECT.replace("event.day,", f"'{LAST}' as day,", 1)})
    load(("a", 1, DAY))
    with pytest.raises(CheckFailed, match="day is in the range"):
        build(spark)
    assert published() == []


def test_a_type_that_differs_is_named(shop, spark) -> None:
    shop({"shop/total.sql": SELECT.replace("sum(event.amount)", "sum(event.amount) / 1")})
    load(("a", 1, DAY))
    with pytest.raises(ContractError, match=r"shop\.total\.total: the SELECT gives double, the contract says bigint"):
        build(spark)


def test_what_spark_refuses_is_one_line(shop, spark) -> None:
    shop({"shop/total.sql": SELECT.replace("sum(event.amount)", "sum(size(map_keys(event.amount)))")})
    load(("a", 1, DAY))
    with pytest.raises(ContractError, match=r"total\.sql: .*map_keys") as error:
        build(spark)
    assert "\n" not in str(error.value)


def test_missing_inputs_and_sources_are_told(shop, spark) -> None:
    with pytest.raises(InputsMissing, match=rf"shop\.event of {DAY} is missing; \./lake load shop\.event FILE"):
        build(spark)
    with pytest.raises(UsageError, match="is a source"):
        runner.build("shop.event", DAY, DAY)


def test_the_cure_of_missing_inputs_is_a_command_that_makes_all_of_them(project, lake_home) -> None:
    middle = {"shop.left": ["shop.event"], "shop.right": ["shop.event"], "shop.earlier": ["shop.event"]}
    reads = {**middle, "shop.both": ["shop.left", "shop.right"], "shop.mixed": ["shop.event", "shop.left"]}
    files = pretend.files_of({**reads, "shop.back": ["shop.earlier"]}, {"shop.back": "reads: {shop.earlier: 1}\n"})
    project(
        {**files, "shop/other.yaml": pretend.SOURCE, **pretend.files_of({"shop.two": ["shop.event", "shop.other"]})}
    )
    days = f"--from {DAY} --to {LAST}"

    def cure(table: str, start: str, end: str) -> str:
        with pytest.raises(InputsMissing) as error:
            runner.build(table, start, end, log=lambda line: None)
        return str(error.value).rpartition("; ")[2]

    assert cure("shop.left", DAY, LAST) == "./lake load shop.event FILE"
    assert cure("shop.two", DAY, LAST) == "./lake load SOURCE FILE for each source"
    assert cure("shop.both", DAY, LAST) == f"./lake build shop.both --upstream {days}"
    assert (
        cure("shop.mixed", DAY, LAST) == f"./lake load shop.event FILE, then ./lake build shop.mixed --upstream {days}"
    )
    # An earlier day is not of the range: to build the table there, too, was not asked for.
    pretend.load("shop.event", DAY, NEXT, LAST)
    pretend.build("shop.earlier", [DAY])
    pretend.build("shop.earlier", [LAST])
    assert cure("shop.back", LAST, LAST) == f"./lake build shop.earlier --upstream --from {NEXT} --to {NEXT}"


def test_a_range_builds_the_days_whose_inputs_are_there_and_names_the_others(shop, spark) -> None:
    load(("a", 1, DAY), ("a", 1, LAST))
    with pytest.raises(InputsMissing, match=rf"{NEXT} has to wait \(2 other days are built\): shop\.event of {NEXT}"):
        build(spark, DAY, LAST)
    assert published() == [("a", 1, DAY), ("a", 1, LAST)]
    # Neither the days that are there nor those that are not are left to the reader.
    with pytest.raises(InputsMissing, match=r"event of 2026-01-04, 2026-01-06, 2026-01-08\.\.2026-01-09 is missing"):
        build(spark, "2026-01-04", "2026-01-09")


@pytest.mark.engine("spark")
def test_rows_that_a_deletion_vector_takes_out_of_a_source_make_its_day_stale(shop, spark) -> None:
    load(("a", 1, DAY), ("b", 2, DAY), ("a", 1, NEXT))
    path = Path(storage.address("shop.event"))
    spark.sql(f"alter table delta.`{path}` set tblproperties (delta.enableDeletionVectors = true)")
    build(spark, DAY, NEXT)
    spark.sql(f"delete from delta.`{path}` where name = 'b'")
    delta = storage.open_table("shop.event")
    assert delta is not None and "deletionVectors" in delta.protocol().reader_features
    snapshot = storage.open("shop.event")
    assert snapshot is not None and storage.rows(snapshot, {"day": [DAY]}).num_rows == 1
    lake = Look()
    assert [lake.own_state(TABLE, day).state for day in (DAY, NEXT)] == ["stale", "fresh"]
    assert lake.own_state("shop.event", DAY).rows == 1
    build(spark, DAY, NEXT)
    assert published() == [("a", 1, DAY), ("a", 1, NEXT)]
    spark.sql(f"optimize delta.`{path}`")
    spark.sql(f"reorg table delta.`{path}` apply (purge)")
    assert [Look().own_state(TABLE, day).state for day in (DAY, NEXT)] == ["fresh", "fresh"]


def test_run_timestamp_is_the_start_of_the_build_for_every_row(shop, spark) -> None:
    load(("a", 1, DAY), ("b", 1, NEXT))
    before = datetime.now(UTC)
    build(spark, DAY, NEXT)
    delta = storage.open_table(TABLE)
    assert delta is not None
    (stamp,) = {row["run_timestamp"] for row in delta.to_pyarrow_table().to_pylist()}
    assert before <= stamp <= datetime.now(UTC)


def test_a_build_killed_before_its_ledger_row_is_healed_by_the_next_look(shop, spark, monkeypatch) -> None:
    load(("a", 1, DAY))
    with monkeypatch.context() as killed:
        killed.setattr(ledger, "record", die)
        with pytest.raises(KeyboardInterrupt):
            build(spark)
    assert published() == [("a", 1, DAY)] and ledger.read([TABLE]) == []
    assert build(spark).state == "fresh"
    assert [(row["partition"], row["status"]) for row in ledger.read([TABLE])] == [(DAY, "built")]


def die(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_the_ledger_made_again_from_the_commits_is_the_same(shop, spark) -> None:
    load(("a", 1, DAY), ("a", 1, NEXT))
    build(spark, DAY)
    build(spark, DAY, NEXT)
    kept = ledger.read()
    assert len([row for row in kept if row["table"] == TABLE]) == 2
    load(("a", -1, NEXT))
    with pytest.raises(CheckFailed):
        build(spark, NEXT)
    kept = ledger.read()
    assert ledger.rebuild() == (len(kept), len(kept))
    assert ledger.read() == kept


def test_two_builders_of_the_same_day_end_well(shop, spark) -> None:
    load(("a", 1, DAY), ("b", 2, DAY))
    outcomes: list[runner.Outcome] = []
    gate = threading.Barrier(2)

    def one() -> None:
        gate.wait()
        # Sessions of Sail cannot be multiplied; a builder without one opens its own.
        outcomes.append(build(spark.newSession() if settings.engine() == settings.SPARK else None))

    builders = [threading.Thread(target=one) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert sorted(outcome.state for outcome in outcomes) in (["built", "fresh"], ["built", "built"])
    assert published() == [("a", 1, DAY), ("b", 2, DAY)]


def test_earlier_days_of_an_input_count_and_those_before_its_first_day_are_not_waited_for(shop, spark) -> None:
    shop(
        {
            "shop/total.yaml": CONTRACT + "reads: {shop.event: 2}\n",
            "shop/total.sql": SELECT.replace("event.day,", f"'{LAST}' as day,", 1)
            .replace("event.day between :start_date and", "event.day between date_sub(:start_date, 2) and")
            .replace("group by event.name, event.day", "group by event.name"),
        }
    )
    load(("a", 1, LAST))
    build(spark, LAST)
    assert published() == [("a", 1, LAST)]
    load(("a", 2, DAY))
    assert Look().state(TABLE, LAST).state == "stale"
    with pytest.raises(InputsMissing, match=NEXT):
        build(spark, LAST)
    load(("a", 4, NEXT))
    build(spark, LAST)
    assert published() == [("a", 7, LAST)]
