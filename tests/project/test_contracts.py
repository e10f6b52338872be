"""Contracts are checked whole, and a wrong file costs what stands on it and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from include.lake import settings
from include.lake.backfill import request
from include.lake.cli import main as cli
from include.lake.errors import ContractError, UsageError
from include.lake.project import contracts, current, lineage, readiness, task_lists

Project = Callable[[dict[str, str]], None]

BUILT = """\
about: Calls per day and topic.
key: [topic]
partitioned_by: [part_date]
columns:
  - {name: topic, type: string}
  - {name: calls, type: bigint}
  - {name: part_date, type: string}
"""
SELECT = """\
select log.topic, count(*) as calls, log.date_id as part_date
from service_log.weverse_server_log as log
where log.date_id between :start_date and :end_date
group by all
"""
SOURCE = """\
about: Calls as they come.
partitioned_by: [part_date]
ready_when: max(hour) = '23'
empty_after: 1.5
columns:
  - {name: hour, type: string}
  - {name: part_date, type: string}
"""
# A field more, in the second line.
MORE = "key: [topic]"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """The path of a contract beside which there is a SELECT."""
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "calls.sql").write_text(SELECT)
    return tmp_path / "schema" / "calls.yaml"


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        # A key twice, at any depth: YAML takes the last one.
        (MORE, f"checks: [calls > 0]\n{MORE}\nchecks: [calls > 1]", 4, "`checks` is given twice"),
        ("bigint}", "bigint, nullable: true, nullable: false}", 6, "`nullable` is given twice"),
        (MORE, f"{MORE}\nreads:\n  a.b: 1\n  a.b: 2", 5, "`a.b` is given twice"),
        # A text that looks like a truth, a truth that looks like a number.
        ("bigint}", 'bigint, nullable: "no"}', 6, "column calls: `nullable`: 'no' is wrong; write true or false"),
        ("bigint}", 'bigint, sensitive: "false"}', 6, "column calls: `sensitive`: 'false' is wrong"),
        ("bigint}", "bigint, comment: 5}", 6, "column calls: `comment`: 5 is wrong; write a text"),
        (MORE, f"{MORE}\nreads: {{a.b: true}}", 3, "`reads`: True is wrong"),
        (MORE, f"{MORE}\nreads:\n  a.b: 1\n  c.d: -1", 5, "`reads`: -1 is wrong"),
        (MORE, f"{MORE}\nreads: {{a.b: 1.5}}", 3, "`reads`: 1.5 is wrong"),
        (MORE, f"{MORE}\nreads: {{a.b: yesterday}}", 3, "`reads`: 'yesterday' is wrong"),
        (MORE, f"{MORE}\nreads: {{../etc: 1}}", 3, "`reads`: '../etc' is wrong"),
        (MORE, f"{MORE}\nreads: {{schema.calls: 1}}", 3, "`reads` names schema.calls itself"),
        *(
            (MORE, f"{MORE}\npatience_hours: {hours}", 3, "`patience_hours`: ")
            for hours in ("true", ".inf", "-.inf", ".nan", "-1", "0", "'5'", "1.0e+300", "", "[5]")
        ),
        # Another shape.
        (MORE, f"{MORE}\nchecks: calls > 0", 3, "`checks`: 'calls > 0' is wrong; write a list"),
        (MORE, f"{MORE}\nchecks:\n  - calls > 0\n  - {{stop: calls}}", 5, "`checks`: {'stop': 'calls'} is wrong"),
        (MORE, f"{MORE}\nchecks: [calls > 0, {{warn: 5}}]", 3, "`checks`: {'warn': 5} is wrong"),
        (MORE, f"{MORE}\nchecks: ['']", 3, "`checks`: '' is wrong"),
        (MORE, f"{MORE}\nchecks: [calls > 0, {{warn: calls > 0}}]", 3, "check `calls > 0` is listed twice"),
        (MORE, f"{MORE}\nreads: [a.b]", 3, "`reads`: ['a.b'] is wrong; write a mapping"),
        (MORE, "key: 5", 2, "`key`: 5 is wrong; write a list"),
        (MORE, "key: topic", 2, "`key`: 'topic' is wrong"),
        (MORE, "key: [topic, [calls]]", 2, "`key`: ['calls'] is wrong"),
        (MORE, f"{MORE}\nkye: [topic]", 3, "unknown field `kye`; the fields are about, columns, key"),
        (MORE, f"{MORE}\ntable: a.b", 3, "unknown field `table`"),
        (MORE, f"{MORE}\n5: x", 3, "unknown field `5`"),
        (MORE, "", 1, "`key` is missing: write a list"),
        ("partitioned_by: [part_date]", "", 1, "`partitioned_by` is missing"),
        ("about: Calls per day and topic.\n", "", 1, "`about` is missing: write a text"),
        ("Calls per day and topic.", '" "', 1, "`about`: ' ' is wrong"),
        ("bigint}", "bigint}\n  - calls", 7, "`columns`: 'calls' is wrong"),
        (", type: bigint", "", 6, "column calls: `type` is missing: write one of string, "),
        ("bigint", "long", 6, "column calls: `type`: 'long' is wrong"),
        ("bigint", "array<array<int>>", 6, "column calls: `type`: 'array<array<int>>' is wrong"),
        # Columns that do not go together, or that nobody can hold.
        (MORE, "key: [subject]", 2, "`key` names subject, which is not a column"),
        (MORE, "key: [topic, calls, topic]", 2, "`key` names topic twice"),
        ("[part_date]", "[part_date, topic, part_date]", 3, "`partitioned_by` names part_date twice"),
        ("[part_date]", "[topic, calls, part_date]", 3, "`partitioned_by` names every column"),
        ("[part_date]", "[calls]", 6, "the day column calls must be a string"),
        ("part_date, type: string", "part_date, type: string, nullable: true", 7, "part_date cannot be null"),
        ("calls, type: bigint}", "topic, type: bigint}", 6, "column topic is listed twice"),
        ("calls, type: bigint}", "drop_reason, type: string}", 6, "column drop_reason is for rows"),
        ("calls, type: bigint}", "run_timestamp, type: string}", 6, "column run_timestamp is filled by the runner"),
        ("calls, type: bigint}", "current_date, type: date}", 6, "current_date: Spark reads this word as a value"),
        ("calls, type", "Calls; drop, type", 6, "`name`: 'Calls; drop' is wrong; write a name of a-z"),
        ("calls, type", f"{'c' * 101}, type", 6, "at most 100 characters"),
        ("calls, type", "on, type", 6, "`name`: True is wrong"),
        (MORE, f"{MORE}\nclustered_by: [subject]", 3, "`clustered_by` names subject, which is not a column"),
        (MORE, f"{MORE}\nclustered_by: [part_date]", 3, "names part_date, by which the table is partitioned"),
        (MORE, f"{MORE}\nclustered_by: topic", 3, "write a list of at most 4 columns by which readers choose rows"),
        # What is for sources alone.
        (MORE, f"{MORE}\nready_when: max(topic) = 'a'", 3, "`ready_when` is for sources"),
        (MORE, f"{MORE}\nempty_after: 1", 3, "`empty_after` is for sources"),
        (MORE, f"{MORE}\nday_of: topic", 3, "`day_of` is for files of a source"),
        (MORE, f"{MORE}\nignore_other_columns: true", 3, "`ignore_other_columns` is for files of a source"),
        ("bigint}", "bigint, named: Calls}", 6, "column calls: `named` is for files of a source"),
        ("calls, type: bigint}", "at, type: timestamp, unit: ms}", 6, "column at: `unit` is for files of a source"),
        # No YAML, or none of ours.
        ("Calls per", "Calls: per", 1, "is wrong YAML: "),
        ("Calls per day and topic.", "!!python/object:os.system x", 1, "is wrong YAML: could not determine"),
        ("Calls per day and topic.", "2026-02-30", 1, "is wrong YAML: day is out of range"),
        (MORE, f"{MORE}\npatience_hours: 1:30", 3, "is wrong YAML: `1:30` is 90 in YAML, which counts by 60: write 90"),
        (MORE, f"{MORE}\npatience_hours: -1:30.5", 3, "is wrong YAML: `-1:30.5` is -90.5 in YAML"),
        ("Calls per", "\0", 1, "is wrong YAML: control characters"),
        (BUILT, "[" * 5000 + "]" * 5000, 1, "is wrong YAML: "),
        (BUILT, "", 1, "is no contract: write a mapping"),
        (BUILT, "- a list", 1, "is no contract: write a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_contract_is_one_line_with_file_line_and_cure(
    built: Path, old: str, new: str, line: int, problem: str
) -> None:
    assert old in BUILT
    with pytest.raises(ContractError) as error:
        contracts.parse(BUILT.replace(old, new, 1), built)
    message = str(error.value)
    assert message.startswith(f"{built}:{line}: ") and problem in message
    assert "\n" not in message
    assert contracts.parse(BUILT, built).table == "schema.calls"


def test_each_mistake_has_a_line_of_its_own(built: Path) -> None:
    text = BUILT.replace("[topic]", "5").replace("bigint}", "bigint, nullable: 'no'}\n  - {name: x, type: text}")
    with pytest.raises(ContractError) as error:
        contracts.parse(text, built)
    starts = [line.partition(": ")[0] for line in str(error.value).splitlines()]
    assert sorted(starts) == [f"{built}:{number}" for number in (2, 6, 7)]


def test_one_wrong_column_is_one_mistake(built: Path) -> None:
    text = "about: A day.\nkey: []\npartitioned_by: [part_date]\ncolumns:\n  - {name: part_date, type: text}\n"
    with pytest.raises(ContractError) as error:
        contracts.parse(text, built)
    message = str(error.value)
    assert message.startswith(f"{built}:5: column part_date: `type`: 'text' is wrong") and "\n" not in message
    with pytest.raises(ContractError, match=r"`columns`: .* is wrong; write a list of"):
        contracts.parse(text.partition("columns:")[0] + "columns: []\n", built)


def test_what_a_contract_leaves_out_has_its_default(built: Path) -> None:
    text = BUILT.replace("string}", "string, nullable: true}", 1) + "  - {name: run_timestamp, type: timestamp}\n"
    contract = contracts.parse(text + "reads: {b.c: all, a.b: 2}\nchecks: [' calls > 0 ', warn: calls > 1]\n", built)
    assert [column.nullable for column in contract.columns] == [True, True, False, False]
    assert contract.reads == (("a.b", 2), ("b.c", "all"))
    assert [(check.sql, check.severity) for check in contract.checks] == [("calls > 0", "fail"), ("calls > 1", "warn")]
    assert (contract.patience_hours, contract.ready_when, contract.empty_after) == (20, None, None)
    assert not contract.is_source and contract.day_column == "part_date"


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("empty_after: 1.5", "empty_after: 0", 4, "`empty_after`: 0 is wrong"),
        ("empty_after: 1.5", "empty_after: true", 4, "`empty_after`: True is wrong"),
        ("empty_after: 1.5", "day_of: hour", 4, "`day_of` names hour, which is no timestamp column"),
        ("empty_after: 1.5", "day_of: moment", 4, "`day_of` names moment, which is no timestamp column"),
        ("empty_after: 1.5", 'ignore_other_columns: "yes"', 4, "`ignore_other_columns`: 'yes' is wrong"),
        ("max(hour) = '23'", "5", 3, "`ready_when`: 5 is wrong"),
        ("max(hour) = '23'", "[max(hour) = '23']", 3, "`ready_when`: "),
        ("partitioned_by: [part_date]\n", "", 2, "`ready_when` is for days, and this source has none"),
        ("empty_after: 1.5", "checks: [hour > 0]", 4, "`checks` is for what we build"),
        ("empty_after: 1.5", "reads: {a.b: 1}", 4, "`reads` is for what we build"),
        ("hour, type", "hour, named: 5, type", 6, "column hour: `named`: 5 is wrong; write the name of the column"),
        ("hour, type", "hour, named: ' ', type", 6, "column hour: `named`: ' ' is wrong"),
        (
            "hour, type",
            "hour, named: part_date, type",
            6,
            "column hour: `named` is part_date, which is a column; write",
        ),
        ("hour, type", "hour, named: hour, type", 6, "column hour: `named` is hour, which is a column; write another"),
        (
            "hour, type: string}",
            "hour, named: Hour, type: string}\n  - {name: minute, named: Hour, type: string}",
            7,
            "column minute: `named` is Hour, as of another column; write another name",
        ),
        (
            "hour, type: string}",
            "hour, type: bigint, unit: ms}",
            6,
            "column hour: `unit` is for timestamps, and this is",
        ),
        ("hour, type: string}", "hour, type: timestamp, unit: s}", 6, "column hour: `unit`: 's' is wrong; write ms"),
    ],
)
def test_the_fields_of_a_source_are_checked_too(tmp_path: Path, old: str, new: str, line: int, problem: str) -> None:
    path = tmp_path / "schema" / "calls.yaml"
    contract = contracts.parse(SOURCE, path)
    assert (contract.ready_when, contract.empty_after) == ("max(hour) = '23'", 1.5)
    with pytest.raises(ContractError) as error:
        contracts.parse(SOURCE.replace(old, new, 1), path)
    assert str(error.value).startswith(f"{path}:{line}: ") and problem in str(error.value)


def test_what_files_call_a_column_changes_no_code_id_and_is_kept_on_disk(project: Project) -> None:
    source = SOURCE.replace("hour, type: string", "hour, type: timestamp").replace("max(hour) = '23'", "count(*) > 0")
    reader = SELECT.replace("service_log.weverse_server_log", "schema.calls").replace("log.topic", "'a' as topic")
    files = {"schema/sums.yaml": BUILT, "schema/sums.sql": reader.replace("date_id", "part_date")}
    project({**files, "schema/calls.yaml": source})
    before = current.project().code_id("schema.sums")
    project({"schema/calls.yaml": source.replace("hour, type: timestamp", "hour, named: H, type: timestamp, unit: ms")})
    contract = contracts.get("schema.calls")
    assert [(column.named, column.unit) for column in contract.columns] == [("H", "ms"), (None, None)]
    assert current.project().code_id("schema.sums") == before
    plain = json.loads(json.dumps(contracts.plain(contract)))
    assert contracts.restored(plain, contract.path, is_source=True) == contract


NOT_READY = {
    "hour = '23'": "has no aggregate",
    "max(hour)": "must be true or false",
    "max(hour) = hour": "names hour outside an aggregate",
    "max(our) = '23'": "names our, which is not a column",
    "max(this.hour) = '23'": "names this.hour, which is not a column",
    "max(min(hour)) = '23'": "has `MIN(hour)` in another aggregate",
    "count(*) filter (where min(hour) = '1') > 0": "has `MIN(hour)` in another aggregate",
    "max(hour) over () = '23'": "has `MAX(hour) OVER ()`",
    "max(hour) = (select '23')": "has `(SELECT '23')`",
    "select max(hour) = '23'": "has `SELECT MAX(hour) = '23'`",
    "max(hour) = :start_date": "has `:start_date`",
    "max(hour) < current_date()": "has `CURRENT_DATE`",
    "max(rand()) > 0": "has `RAND()`",
    "max(*) = '23'": "has `*`",
    "max(hour) = '23'; drop table a.b": "must be one expression",
    "max(hour) =": "does not parse",
    "'23": "does not parse",
}


def test_what_cannot_say_that_a_day_is_complete_is_told_so(project: Project) -> None:
    project({})
    path = settings.SQL / "service_log" / "weverse_server_log.yaml"
    text, table = path.read_text(), "service_log.weverse_server_log"
    for sql, problem in NOT_READY.items():
        path.write_text(f"ready_when: |\n  {sql}\n{text}")
        with pytest.raises(ContractError) as error:
            readiness.parsed_ready_when(table)
        assert str(error.value).startswith(f"{path}:1: `ready_when` {problem}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("max(i) = 'a'", "compares `MAX(i)`, bigint, with 'a'"),
        ("count(*) filter (where i in (1, '1.5')) > 1", "compares `i`, bigint, with '1.5'"),
        ("max(d) between '2026-01-01' and 'noon'", "compares `MAX(d)`, date, with 'noon'"),
        ("max(b) = 1", "compares `MAX(b)`, boolean, with 1"),
        ("sum(s) > 1", "has `SUM(s)` of string: sum and avg take numbers"),
        ("max(s) + 1 > 1", "computes with `MAX(s)`, string: + - * take numbers"),
        ("max(i) = '23' and max(s) = 23 and max(d) > '2026-1-1' and max(t) > '2026-01-01 10:00:00' and avg(i) > 1", ""),
        ("sum(f) * 2 > '1.5e3' and max(b) = true and max(case when i > 1 then 'a' end) = 'a'", ""),
    ],
)
def test_what_compares_or_computes_with_another_type_never_says_that_a_day_is_complete(
    project: Project, sql: str, problem: str
) -> None:
    kinds = {"i": "bigint", "s": "string", "f": "double", "b": "boolean", "d": "date", "t": "timestamp"}
    columns = "".join(f"  - {{name: {name}, type: {kind}}}\n" for name, kind in kinds.items())
    project({"schema/calls.yaml": SOURCE.replace("max(hour) = '23'", f"|\n  {sql}") + columns})
    if not problem:
        assert readiness.parsed_ready_when("schema.calls") is not None
        return
    with pytest.raises(ContractError) as error:
        readiness.parsed_ready_when("schema.calls")
    assert f"calls.yaml:3: `ready_when` {problem}" in str(error.value)


def test_what_can_say_that_a_day_is_complete(project: Project) -> None:
    for sql in (
        'max(hour) = "23"',
        "(count(distinct hour) = 24 or not count(*) filter (where hour = '23') is null)",
        "sum(case when hour in ('22', '23') then 1 else 0 end) * 2 - 1 between 1 and 9",
    ):
        project({"schema/calls.yaml": SOURCE.replace("max(hour) = '23'", f"|\n  {sql}")})
        assert readiness.parsed_ready_when("schema.calls") is not None
    project({"schema/calls.yaml": SOURCE.replace("ready_when: max(hour) = '23'\n", "")})
    assert readiness.parsed_ready_when("schema.calls") is None


def test_what_systems_and_editors_leave_behind_is_nothing_of_ours(project: Project) -> None:
    project({})
    good, order, stamp = dict(contracts.load_all()), lineage.in_order(), current.stamps()
    folder = settings.SQL / "we_mart"
    for name in ("._we_user.yaml", "#we_user.yaml#", "we_user.yaml~", ".we_user.sql.swp", "~$we_user.yaml", "notes.md"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    (folder / ".#we_user.yaml").symlink_to("me@laptop.4711:1784")  # Emacs locks with a link to nowhere
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "we_user.yaml").write_text("x")
    assert (dict(contracts.load_all()), lineage.in_order(), current.stamps()) == (good, order, stamp)
    assert lineage.broken() == {}


# What is no contract nor SELECT, by its name: as text, as bytes, as a folder (None).
WRONG_FILES = {
    "we_mart/no_text.yaml": b"about: \xff",
    "we_mart/a_typo_where_nobody_reads.yaml": BUILT.replace("bigint", "bignt"),
    "we_mart/no_contract.sql": SELECT,
    "we_mart/no_name (1).yaml": BUILT,
    "we_mart/another_ending.yml": BUILT,
    "we_mart/deep/too_deep.yaml": BUILT,
    "no_schema.yaml": BUILT,
    "ops/partition_build.yaml": BUILT,
    "we_mart/folder.yaml": None,
}


def test_a_wrong_file_costs_itself_alone_and_is_named(
    project: Project, lake_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project({})
    good, order, names = dict(contracts.load_all()), lineage.in_order(), task_lists.names()
    paths = [settings.SQL / name for name in [*WRONG_FILES, "we_mart/link_to_nowhere.yaml"]]
    for path, content in zip(paths, WRONG_FILES.values(), strict=False):
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    paths[-1].symlink_to("nowhere")
    assert (dict(contracts.load_all()), lineage.in_order(), task_lists.names()) == (good, order, names)
    messages = sorted(lineage.broken().values())
    assert len(messages) == len(paths)
    assert all(message.startswith(f"{path}:") for message, path in zip(messages, sorted(paths), strict=True))
    assert current.stamps()
    assert cli.main(["lineage"]) == 0
    assert sorted(capsys.readouterr().err.splitlines()) == [f"left out: {message}" for message in messages]
    with pytest.raises(ContractError, match=r"no_text\.yaml:1: is not UTF-8"):
        contracts.get("we_mart.no_text")


def test_a_contract_of_another_ending_is_to_be_renamed(project: Project) -> None:
    project({"shop/base.yml": BUILT, "shop/base.sql": SELECT})
    message = f"{settings.SQL}/shop/base.yml: a contract ends in .yaml: rename it base.yaml"
    assert lineage.broken() == {"shop.base": message}
    with pytest.raises(ContractError, match=r"rename it base\.yaml$"):
        contracts.get("shop.base")
    project({"shop/base.yaml": BUILT})
    (problem,) = lineage.broken().values()
    assert problem.startswith(f"{settings.SQL}/shop/base.yml: is no table") and contracts.get("shop.base")


def test_what_stands_on_a_broken_table_is_broken_with_it(project: Project) -> None:
    """By contract, by SELECT, by check and by `ready_when`."""
    order = lineage.in_order()
    log, base = "service_log.weverse_server_log", "we_mart.wv_server_log_base"
    contract = (settings.SQL / "service_log/weverse_server_log.yaml").read_text()
    sessions = "we_mart.wv_sess_daily"
    select = (settings.SQL / "we_mart/wv_server_log_base.sql").read_text()
    checks = (settings.SQL / "we_mart/wv_server_log_base.yaml").read_text()
    assert "checks:" not in checks
    for files, broken in (
        ({"service_log/weverse_server_log.yaml": f"{contract}\nkey: 5\n"}, {log, base, sessions}),
        ({"service_log/weverse_server_log.yaml": f"{contract}\nready_when: rand() > 1\n"}, {log, base, sessions}),
        ({"we_mart/wv_server_log_base.sql": f"{select} -- \udce9"}, {base, sessions}),
        ({"we_mart/wv_server_log_base.yaml": f"{checks}\nchecks: [1 = (]\n"}, {base, sessions}),
    ):
        original = {name: (settings.SQL / name).read_bytes() for name in files}
        for name, text in files.items():
            (settings.SQL / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        project({})
        assert set(lineage.broken()) == broken
        (message,) = set(lineage.broken().values())
        assert message.startswith(str(settings.SQL / next(iter(files))))
        assert lineage.in_order() == [name for name in order if name not in broken]
        for name, content in original.items():
            (settings.SQL / name).write_bytes(content)


def test_a_list_with_a_broken_table_is_broken_and_the_others_can_be_asked_for(project: Project) -> None:
    members, sessions = "we_mart.wv_comm_user", "we_mart.wv_sess_daily"
    contract = (settings.SQL / "service_log/weverse_server_log.yaml").read_text()
    project({"service_log/weverse_server_log.yaml": f"{contract}\nkey: 5\n"})
    (message,) = set(lineage.broken().values())
    others = ["audio_streaming_dwh_daily", "rudder_sessionization_daily"]
    assert [listed.dag_id for listed in task_lists.read_all()] == others  # no session in them
    assert set(task_lists.broken().values()) == {message}
    assert request.check([members], "2026-01-01", "2026-01-02").tables == (members,)
    with pytest.raises(UsageError, match="is not over in Asia/Seoul"):
        request.check([members], "2026-01-01", "2999-01-02", yes=True)
    for name in (sessions, "analytics_we_mart_wv1_daily"):
        with pytest.raises(ContractError) as error:
            request.check([name], "2026-01-01", "2026-01-02")
        assert str(error.value) == message
