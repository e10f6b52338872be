"""Nothing unchecked: no name, value or day of a table blinds its checks, and what they show is fit to be shown."""

import json
import re
from typing import Any

import pytest

from include.lake import settings
from include.lake.backfill import run as backfill
from include.lake.build import checks, failures
from include.lake.errors import DATA, CheckFailed, ContractError
from include.lake.project import contracts, lineage, selects
from include.lake.state import ledger
from include.lake.storage import delta_files as storage
from tests.conftest import ENGINES
from tests.shop import CONTRACT, DAY, FILES, NEXT, SELECT, TABLE, build, load

SECRET = "type: string, nullable: true, sensitive: true"


def with_checks(*sql: Any, contract: str = CONTRACT) -> dict[str, str]:
    lines = "".join(f"  - {json.dumps(check)}\n" for check in sql)
    return {"shop/total.yaml": contract.replace("checks: [total >= 0]\n", f"checks:\n{lines}")}


def a_shop(project: Any, files: dict[str, str]) -> None:
    """Without Spark."""
    project(FILES | files)


def test_no_two_tables_share_a_view_and_none_can_have_its_name() -> None:
    tables = ["a.b__c", "a__b.c", "a_b.c", "a.b_c", "a__b__c.d", lineage.THIS, "this.this", "x1.a", "x.a1", "x.1_a"]
    views = [lineage.view_name(table) for table in tables]
    assert len({view.lower() for view in views}) == len(tables)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", view) for view in views)
    assert not any(contracts.is_table_name(f"{view}.x") or contracts.is_table_name(f"x.{view}") for view in views)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("event.day,", "event.day, 1 as __lake_x,", "names that begin with __lake_ are the runner's own"),
        ("select\n", "with `__LAKE_4_shop_event` as (select 1) select\n", "names that begin with __lake_"),
    ],
)
def test_names_of_the_runner_are_refused(project, old: str, new: str, message: str) -> None:
    a_shop(project, {"shop/total.sql": SELECT.replace(old, new, 1)})
    with pytest.raises(ContractError, match=r"shop/total\.sql:\d") as error:
        lineage.select(TABLE)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (CONTRACT.replace("name: total", "name: drop_reason"), "drop_reason is for rows that are not published"),
        (CONTRACT.replace("key: [name]", "key: [run_timestamp]"), "run_timestamp, which is the same"),
    ],
)
def test_columns_of_the_runner_are_refused(project, contract: str, message: str) -> None:
    a_shop(project, {"shop/total.yaml": contract.replace("checks: [total >= 0]", "")})
    with pytest.raises(ContractError, match=message):
        contracts.get(TABLE)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("totl >= 0", "there is no column totl; did you mean total?"),
        ("this.total >= 0", "there is no column this.total"),
        ("run_timestamp is not null", "there is no column run_timestamp"),
        ("exists(array(1), x -> x > totl)", "did you mean total?"),
        ("sum(Totall) > 0", "did you mean total?"),
        ("row_number() over (order by total) > 0", "a check with a window is a SELECT"),
        ("day > :first_day", "unknown parameter :first_day; there are :start_date and :end_date"),
        ("day > ?", "unknown parameter"),
        ("select nam from this", "did you mean name?"),
        ("select name from this where totl > 0", "did you mean total?"),
        ("select this.totl from this", "this has no column totl; did you mean total?"),
        ("select e.amonut from shop.event as e", "e has no column amonut; did you mean amount?"),
        ("select name from (select total as title from this) as t", "there is no column name; there are title"),
        ("with t as (select name as title from this) select t.name from t", "t has no column name; there are title"),
        ("select name from this where exists (select 1 from shop.event as e where e.nam = name)", "did you mean name?"),
        ("select o.run_timestam from shop.total as o", "did you mean run_timestamp?"),
        ("with this as (select 1 as name) select name from this", "has a meaning of its own"),
        ("select name from shop.event as This", "has a meaning of its own"),
        ("select name from this limit 3", "LIMIT without ORDER BY"),
    ],
)
def test_a_wrong_check_is_found_when_contracts_are_read(project, check: str, message: str) -> None:
    a_shop(project, with_checks(check))
    with pytest.raises(ContractError, match=r"shop/total\.yaml:\d+: check `") as error:
        lineage.parsed_checks(TABLE)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "check",
    [
        "TOTAL >= 0 and Day >= :start_date",
        "exists(split(name, ','), x -> x > name)",
        "select upper(name) as n, count(*) from this group by n having n > 'a' order by n",
        "with T(a, b) as (select name, total from this) select A, sum(t.b) from t group by all",
        "select x from this lateral view explode(split(name, ',')) words as x where x = ''",
        "select name from this where exists (select 1 from shop.event as e where e.name = this.name and total > 1)",
        "select s.a.total from (select struct(*) as a from this) as s",
        "select * from this join shop.event as e using (name) where amount > total",
        "select name from this union all select o.name from shop.total as o where o.run_timestamp is null",
        "select t.total from this lateral view json_tuple(name, 'a') t as total",
    ],
)
def test_a_right_check_passes(project, check: str) -> None:
    a_shop(project, with_checks(check))
    lineage.parsed_checks(TABLE)


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        ("every(total > 0)", "day"), ("any(total > 0)", "day"), ("try_sum(total) > 0", "day"),
        ("mean(total) > 0", "day"), ("bool_and(total > 0)", "day"), ("name like any ('a%')", "row"),
        ("total > 0", "row"),
    ],
)  # fmt: skip
def test_a_check_with_aggregates_is_one_of_days(project, check: str, kind: str) -> None:
    a_shop(project, with_checks(check))
    assert lineage.parsed_checks(TABLE)[0].kind == kind


@pytest.mark.parametrize(
    ("check", "doubles"),
    [
        ("forall(amounts, x -> x >= 0)", ("amounts",)), ("array_min(amounts) >= size", ("size", "amounts")),
        ("forall(amounts, x -> not isnan(x) and x >= 0)", ()), ("nanvl(size, 0) >= 0", ()),
    ],
)  # fmt: skip
def test_a_check_of_doubles_forbids_nan_unless_it_asks(project, check: str, doubles: tuple[str, ...]) -> None:
    more = "  - {name: size, type: double}\n  - {name: amounts, type: array<double>}\n  - {name: day"
    a_shop(project, with_checks(check, contract=CONTRACT.replace("  - {name: day", more)))
    assert selects.parse_checks(contracts.get(TABLE), [])[0].doubles == doubles


def test_days_are_filled_in_everywhere(project) -> None:
    a_shop(
        project, with_checks("day >= :start_date", "max(day) <= :end_date", "select 1 from this where day < :end_date")
    )
    texts = [check.over_views(DAY, NEXT) for check in lineage.parsed_checks(TABLE)]
    assert texts[:2] == [f"day >= '{DAY}'", f"max(day) <= '{NEXT}'"] and f"day < '{NEXT}'" in texts[2]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            '[CAST_INVALID_INPUT] The value \'it\\\'s me\' of the type "STRING" cannot be cast to "BIGINT" '
            "because it is malformed. SQLSTATE: 22018\n== SQL (line 2, position 5) ==\ncast(name as bigint)",
            '[CAST_INVALID_INPUT] The value \'***\' of the type "STRING" cannot be cast to "BIGINT" '
            "because it is malformed. SQLSTATE: 22018\n== SQL (line 2, position 5) ==\ncast(name as bigint)",
        ),
        ('Caused by: java.lang.NumberFormatException: For input string: "ABC"', "***"),
        ('[CAST_OVERFLOW] The value 4711L of the type "BIGINT" … SQLSTATE: 22003', "The value *** of"),
        ("[USER_RAISED_EXCEPTION] Kim SQLSTATE: P0001", "[USER_RAISED_EXCEPTION] *** SQLSTATE: P0001"),
        ("invalid timestamp: Kim. SQLSTATE: 22000", "invalid timestamp: *** SQLSTATE: 22000"),
        ("Kim. SQLSTATE: 22000", "*** SQLSTATE: 22000"),
        ("Kim SQLSTATE: 22000 Kim", "***"),
        ("regex parse error:\n    (Kim\n    ^\nerror: unclosed group", "regex parse error: ***"),
        (
            "Cast error: Cannot cast string 'Kim' to value of Int32 type' to value of Int64 type. SQLSTATE: 22000",
            "Cast error: Cannot cast string '***' to value of Int64 type. SQLSTATE: 22000",
        ),
        (
            "External: Compute error: Error evaluating filter predicate: "
            'ArrowError(CastError("Cannot cast string \'Kim\' to value of Int64 type"), Some("")). SQLSTATE: 22000',
            "Cast error: Cannot cast string '***' to value of Int64 type. SQLSTATE: 22000",
        ),
        (
            'External: Compute error: Error evaluating filter predicate: Execution("Kim"). SQLSTATE: 22000',
            "*** SQLSTATE: 22000",
        ),
        (
            "External: Compute error: Error evaluating filter predicate: External(Syntax(\n~~~~\nregex parse error:\n"
            "    (Kim\n    ^\nerror: unclosed group\n~~~~\n)). SQLSTATE: 22000",
            "regex parse error: *** SQLSTATE: 22000",
        ),
        ("Division by zero. SQLSTATE: 22000", "Division by zero. SQLSTATE: 22000"),
    ],
)
def test_values_are_taken_out_of_messages(message: str, shown: str) -> None:
    clean = checks.without_values(message)
    assert shown in clean
    assert not re.search(r"it\\|me'|4711|Kim|ABC", clean)


def test_what_derives_from_a_sensitive_column_is_known(project) -> None:
    def hidden(sql: str) -> list[bool] | None:
        contract = CONTRACT.replace("type: string, nullable: true", SECRET)
        a_shop(project, with_checks(sql, contract=contract))
        gives = lineage.parsed_checks(TABLE)[0].gives
        return None if gives is None else [secret for _, secret in gives]

    assert hidden("select name as n, total from this") == [True, False]
    assert hidden("select concat(upper(name), '') as n, total as name from this") == [True, False]
    assert hidden("with t as (select name as x, total as y from this) select y, x from t") == [False, True]
    assert hidden("select * from this") == [True, False, False]
    assert hidden("select o.name as n from shop.total as o") == [True]
    assert hidden("select e.name as n from shop.event as e") == [False]
    assert hidden("select e.name as n, (select max(name) from this) as m from shop.event as e") == [False, True]
    assert hidden("select day as d from this union all select name from this") == [True]
    assert hidden("select w as d from this lateral view explode(split(name, '')) words as w") == [True]
    assert hidden("select x.* from (select struct(*) as s from this) as x") == [True]
    assert hidden("select to_json(struct(this.*)) as j, count(*) as n, count(this.*) as m from this") == [
        True,
        False,
        False,
    ]
    assert hidden("select * except (total) from this") is None


# Every column has a name that generated SQL might use, or that means something else where it is not quoted.
NAMES = ["times", "rows", "holds", "reason", "row0", "this", "kept"]
BLIND = {
    "shop/total.yaml": "about: x\nkey: [times]\npartitioned_by: [art, day]\ncolumns:\n"
    + "".join(f"  - {{name: '{name}', type: bigint, nullable: false}}\n" for name in NAMES)
    + "  - {name: size, type: double}\n  - {name: sizes, type: array<double>}\n"
    + "  - {name: made_at, type: timestamp}\n  - {name: text, type: string}\n"
    + "  - {name: art, type: string, nullable: true}\n  - {name: day, type: string}\n"
    + "checks: [size >= 0, 'forall(sizes, x -> coalesce(x, 0) >= 0)', {warn: count(*) < 5}, 'day >= :start_date']\n",
    "shop/total.sql": "select\n"
    + "".join(f"    nullif(event.amount, 13) as `{name}`,\n" for name in NAMES)
    + "    double(if(event.name = 'nan', 'NaN', '1')) as size,\n"
    + "    array(1d, double(case event.name when 'nans' then 'NaN' when 'less' then '-1' end)) as sizes,\n"
    + "    if(event.name = 'late', timestamp'9999-12-31 00:00:00' + interval 2 days, null) as made_at,\n"
    + "    if(event.name = 'late', repeat('long\\n', 1000), null) as text,\n"
    + "    if(event.name = 'empty', '', event.name) as art,\n"
    + "    if(event.name = 'other', concat(event.day, 'x'), event.day) as day\n"
    + "from shop.event as event\nwhere event.day between :start_date and :end_date\n",
}


@pytest.mark.spark
@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        ([("twice", 5, DAY)] * 15, "`key (times) occurs once a day` fails 1 time"),
        ([("null", 13, DAY)], "`kept is not null` fails 1 time"),
        ([("empty", 5, DAY)], "`art is not ''` fails 1 time"),
        ([("nan", 5, DAY)], "`size is not NaN` fails 1 time"),
        ([("nans", 5, DAY)], "`sizes is not NaN` fails 1 time"),
        ([("less", 5, DAY)], "sizes=[1.0, -1.0]"),
        ([("other", 5, DAY)], "`day is in the range` fails 1 time"),
        ([("late", 13, DAY)], "made_at=+10000-01-02 00:00:00, text=long long"),
    ],
)
def test_no_name_or_value_blinds_a_check(shop, spark, bad, failure: str) -> None:
    shop(BLIND)
    load(("good", 1, DAY), *bad, ("good", 1, NEXT))
    with pytest.raises(CheckFailed) as error:
        build(spark, DAY, NEXT)
    assert failure in str(error.value)
    assert all(len(line) < 600 for line in str(error.value).splitlines()[1:])
    assert ledger.read()[-1]["status"] == "failed" and published_rows() == 0


def published_rows() -> int:
    snapshot = storage.open(TABLE)
    return storage.rows(snapshot).num_rows if snapshot else 0


@pytest.mark.spark
def test_good_rows_with_such_names_are_published(shop, spark) -> None:
    shop(BLIND)
    load(("good", 1, DAY), ("good", 1, NEXT))
    assert build(spark, DAY, NEXT).rows == 2
    assert "day is in the range" in ledger.read()[-1]["checks"]


@ENGINES
@pytest.mark.spark
def test_sensitive_values_stay_masked_under_an_alias_and_in_errors_of_the_engine(shop, spark) -> None:
    secret = CONTRACT.replace("type: string, nullable: true", SECRET)
    load(("Kim", 1, DAY))
    for check, shown in {
        "select name as n, total from this": "n=***, total=1",
        "select upper(name), total from this": "***",
        "select * except (total) from this": "name=***, day=***",
    }.items():
        if "except" in check and settings.engine() == settings.SAIL:
            continue  # Sail does not know it
        shop(with_checks(check, contract=secret))
        with pytest.raises(CheckFailed) as failure:
            build(spark)
        assert shown in str(failure.value).splitlines()[-1] and "kim" not in str(failure.value).lower()
    shop(with_checks("cast(name as bigint) > 0", contract=secret))
    with pytest.raises(
        CheckFailed, match=r"check `cast\(name as bigint\) > 0` cannot be computed: (\[CAST_INVALID|Cast error: )"
    ) as failure:
        build(spark)
    assert "Kim" not in str(failure.value)
    shop(
        with_checks("total > 0", contract=secret)
        | {"shop/total.sql": SELECT.replace("sum(event.amount)", "sum(cast(event.name as bigint))")}
    )
    with pytest.raises(checks.MaskedError, match=r"(?i)cast.*SQLSTATE: 220") as masked:
        build(spark)
    assert failures.kind(masked.value) == DATA and backfill.is_of_the_rows(masked.value)
    assert "Kim" not in str(masked.value) and "Kim" not in ledger.read()[-1]["error"]
    for sql in ("cast(event.name as timestamp)", "assert_true(event.name = 'x', event.name)"):
        shop(
            with_checks("total > 0", contract=secret)
            | {"shop/total.sql": SELECT.replace("sum(event.amount)", f"count({sql})")}
        )
        with pytest.raises(checks.MaskedError, match=r"\*\*\*.*SQLSTATE") as masked:
            build(spark)
        assert failures.kind(masked.value) == DATA
        assert "Kim" not in str(masked.value) and "Kim" not in ledger.read()[-1]["error"]


@ENGINES
@pytest.mark.spark
def test_a_check_that_the_engine_does_not_understand_names_the_contract(shop, spark) -> None:
    load(("a", 1, DAY))
    for check in ("size(total) > 0", "map(total, 1) > '2026-01-01'", "select date_add(total, 1) from this"):
        if "date_add" in check and settings.engine() == settings.SAIL:
            continue  # Sail adds days to a number
        shop(with_checks("total > 0", check))
        with pytest.raises(ContractError) as error:
            build(spark)
        assert f"shop/total.yaml: check `{check}`: " in str(error.value)
        assert "\n" not in str(error.value)
