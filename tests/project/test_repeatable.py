"""What two builds of the same rows get the same from, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import sqlglot

from include.lake import settings
from include.lake.project import repeatable


def fault(sql: str) -> tuple[str, int | None] | None:
    return repeatable.fault(sqlglot.parse_one(sql, "spark"), sql, sqlglot.tokenize(sql, "spark"))


@pytest.mark.parametrize(
    "sql",
    [
        "timestamp'now'", "date 'Today'", "cast('yesterday' as date)", "to_timestamp('now')", "a < ' tomorrow UTC'",
        "to_date('today+09:00')", "a in ('now')", "current_time()", "current_user", "CURRENT_TIMESTAMP",
        "localtimestamp", "user", "session_user", "current_timezone()", "current_catalog()", "current_database()",
        "now()", "curdate()", "unix_timestamp()", "version()", "'${env:HOME}'", "uniform(1, 2)", "randstr(3)",
        "random()", "uuid()", "`uuid` ()", "builtin.uuid()", "shuffle(a)", "aes_encrypt(a, b)", "first(a)",
        "first(a, true)", "first(a) filter (where b)", "last(a)", "any_value(a)",
        "first_value(a) over (partition by b)", "last_value(a) over (order by 1)", "lag(a) over (partition by b)",
        "ntile(3) over (partition by b)", "row_number() over (partition by a)", "row_number() over ()",
        "sum(a) over (partition by b rows between 1 preceding and current row)", "collect_list(a)", "array_agg(a)",
        "collect_set(a) over (order by b)", "array_distinct(collect_list(a))", "listagg(a)", "string_agg(a, ',')",
        "mode(a)", "percentile_approx(a, 0.5)", "approx_percentile(a, 0.5)", "kll_sketch_agg_bigint(a)",
        "reflect('a', 'b')", "java_method('a', 'b')", "monotonically_increasing_id()", "input_file_name()",
        "read_files('x')", "a_function_of_somebody(a)", "select a from x.y as t limit 5",
        "select a from x.y as t sort by a limit 3", "select a from x.y as t tablesample (5 rows)",
        "select transform(a) using 'cat' as b from x.y as t",
        "select row_number() over w from x.y as t window w as (partition by a)",
        "select * from x.y as t pivot (first(x) for y in (1, 2))",
        "with rand(a) as (select 1) select rand() from rand", "cast(r'now' as timestamp)", "date(r'today')",
        "timestamp(lower(r'NOW'))", "cast(concat('no', 'w') as timestamp)", "to_date(lower('TODAY'))",
        "try_to_timestamp(reverse('won'))", "unix_timestamp(lower('NOW'))", "lower('NOW')::timestamp",
        "a < r'now'", "_metadata.file_name", "select t._metadata.file_path from x.y as t", "t._metadata",
        "select a from x.y as t order by 'a' limit 1", "select a from x.y as t order by 1 + 0 limit 1",
    ],
)  # fmt: skip
def test_what_may_differ_is_refused(sql: str) -> None:
    assert fault(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "first(a) over (partition by b order by c)", "last_value(a, true) over (order by c)",
        "sort_array(collect_list(a))", "array_sort(collect_list(a) filter (where b))", "size(collect_set(a))",
        "sort_array(collect_list(a) over (partition by b))", "collect_list(a) over (order by b)",
        "listagg(a) within group (order by a)", "string_agg(distinct a, ',') within group (order by a)",
        "row_number() over (partition by a order by b)", "rank() over (order by a)", "sum(a) over (partition by b)",
        "t.user", "unix_timestamp(a)", "cast('today' as string) = b", "'now playing' = a", "b = 'epoch'",
        "cast(a as decimal(10, 2))", "cast(a as varchar(3))", "timestampdiff(HOUR, a, b)", "a like any ('x')",
        "exists(xs, x -> x > 1)", "case when (a) then (b) else (c) end", "a not in (1) and a between (1) and (2)",
        "percentile_cont(0.5) within group (order by a)", "count(distinct (a))", "from_json(a, 'b string').b",
        "with c(a, b) as (select 1, 2) select a from c as d(e, f) where exists (select 1) order by a limit 3",
        "select a from (values (1), (2)) as t(a) union all (select 2) order by (a) limit 1",
        "select /*+ broadcast(t) */ x from y.z as t lateral view explode(a) e as x join (select 1) using (a)",
        "select lag(a) over w from x.y as t window w as (partition by b order by c)", "to_date(:start_date)",
        "cast(date_add(:end_date, 1) as timestamp)", "timestamp'2026-01-05' + interval 1 day", "cast(null as date)",
        "cast(date'2026-01-05' + interval 1 day as timestamp)", "cast(concat('2026-', a) as date)",
        "to_timestamp(concat(:end_date, ' 23:59:59'))", "transform(xs, x -> cast(x as date))", "a = r'x'",
        "cast(60 * 29459520 as timestamp)", "cast('2026-01-05' as date)", "unix_timestamp('2026-01-05', 'yyyy-MM-dd')",
        "select a from x.y as t order by 1 limit 3", "select a, count(*) from x.y as t group by a order by all limit 3",
        "select a from x.y as t group by a order by count(*) desc, a limit 3",
    ],
)  # fmt: skip
def test_what_is_repeatable_passes(sql: str) -> None:
    assert fault(sql) is None


def test_the_selects_of_the_project_pass() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in Path(settings.SQL).glob("*/*.sql")}
    assert texts and {path: fault(text) for path, text in texts.items() if fault(text)} == {}


@pytest.mark.spark
@pytest.mark.engine("spark")
def test_every_function_of_spark_is_allowed_or_refused_with_a_reason(spark: Any) -> None:
    names = {row[0].lower() for row in spark.sql("show system functions").collect() if row[0][0].isalpha()}
    both = repeatable.REPEATABLE | repeatable.REFUSED.keys()
    assert names - both == set() and both - names == set()
    assert repeatable.REPEATABLE & repeatable.REFUSED.keys() == set()
