"""The command line as a stranger meets it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from include.lake import settings
from include.lake.cli import main as cli
from include.lake.cli import text
from include.lake.project import contracts, task_lists
from include.lake.storage import delta_files as storage
from tests import shop as of_shop
from tests.shop import DAY, FILES, LAST, NEXT, SELECT, TABLE

BACKFILL = ["backfill", "members", "--from", "2026-01-05", "--to", "2026-01-06"]
BUILD = ["build", "we_mart.wv_sess_daily", "--from", "2026-01-05", "--to", "2026-01-05"]

TRY = ["try", *BUILD[1:]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["bild"], "invalid choice: 'bild'"),
        (["build", "we_mart.wv_sess_dayly", *BUILD[2:]], "did you mean we_mart.wv_sess_daily?"),
        (["build", "'; drop table x; --", *BUILD[2:]], "there is no table"),
        ([*BUILD[:3], "2026-02-30", *BUILD[4:]], "'2026-02-30' is not a day"),
        ([*BUILD[:3], "20260105", *BUILD[4:]], "'20260105' is not a day"),
        ([*BUILD[:3], "2026-01-06", *BUILD[4:]], "upside down"),
        ([*BUILD[:3], "1026-01-06", *BUILD[4:]], "days; ask for at most"),
        (BUILD[:4], "--to"),
        (["build", "we_mart.we_user", *BUILD[2:]], "is a source, nothing builds it"),
        (["backfill", "membrs", *BACKFILL[2:]], "did you mean members?"),
        (["backfill", "we_mart.we_user", *BACKFILL[2:]], "is a source, nothing builds it"),
        ([*BACKFILL[:3], "2026-01-07", *BACKFILL[4:]], "upside down"),
        ([*BACKFILL[:5], "2999-01-07"], "2999-01-07 is not over in Asia/Seoul"),
        ([*BACKFILL[:3], "2016-01-06", *BACKFILL[4:]], "if you mean more than three years, say so with --yes"),
        ([*BACKFILL, "--mode", "some"], "choose one of due, missing, stale, failed, all"),
        ([*BACKFILL, "--days-per-batch", "0"], "--days-per-batch: days per batch '0'"),
        ([*BACKFILL, "--run", "a b; --", "--mode", "all"], "--run"),
        ([*BACKFILL, "--run", "a"], "--run is for --mode all"),
        (["status", "we_mart.we_artist"], "has no days, and so no status: ./lake show we_mart.we_artist"),
        (["show", "we_mart.we_artist", "--day", "2026-01-05"], "is not kept by days: leave --day out"),
        (["show", "rudder.dbt_mapped_tracks", "--day", "2026-01-05"], "is not kept by days: leave --day out"),
        (["show", "we_mart.we_user", "--day", "2026-01-05", "--rows", "-3"], "--rows: '-3' is no number of rows"),
        ([*TRY, "--rows", "-3"], "--rows: '-3' is no number of rows"),
        ([*TRY, "--day", "2026-01-05"], "leave one of them out"),
        (["try", "we_mart.wv_sess_daily", "--case", "nope"], "has no case nope; it has "),
        (["status", "--why", "we_mart.we_user", "--day", "2026-01-05", "--json"], "leave --from, --to, --json"),
        (["status", "--why", "we_mart.we_artist", "--day", "2026-01-05"], "has no days, and so no status: ./lake show"),
        (
            ["status", "--why", "rudder.dbt_top_users_by_avg_session_duration", "--day", "2026-01-05"],
            "has no days, and so no status",
        ),
        (["show", "we_mart.nothing"], "there is no table"),
        (["show", "../../etc"], "there is no table"),
        (["sample", *BUILD[2:], "--scale", "0"], "scale 0 makes no sense"),
        (["ledger"], "required: rebuild"),
        (["try", "we_mart.we_user", "--day", "2026-01-05"], "is a source, there is nothing to try"),
        (["sample", "we_mart.we_user", *BUILD[2:], "--late"], "no sample with late events of we_mart.we_user"),
        (["new", "we_mart.X; --", "--dag", "analytics_we_mart_wv1_daily"], "is not a table name"),
        (["new", "we_mart.wv_sess_daily", "--dag", "analytics_we_mart_wv1_daily"], "is there already"),
        (["new", "we_mart.fresh_one", "--dag", "nothing_daily"], "there is no task list"),
        (["new", "ops.partition_build", "--dag", "analytics_we_mart_wv1_daily"], "is the ledger of the builds"),
    ],
)
def test_nonsense_gets_one_line_and_exit_code_2(
    lake_home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert output.err.count("\n") == 1 and output.err.startswith("lake: ")
    assert output.out == ""
    assert not lake_home.exists(), "nothing may be written"


def test_a_failure_is_one_line_and_exit_code_1(lake_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(BUILD) == 1
    told = capsys.readouterr().err
    assert "has to wait: we_mart.we_artist is not loaded" in told and "./lake load SOURCE FILE for each source" in told
    assert told.count("\n") == 1
    assert cli.main(["status"]) == 1
    assert "no days yet of any table: ./lake load SOURCE FILE takes yours, ./lake sample " in capsys.readouterr().err


def test_backfill_shows_its_plan_and_says_so_when_there_is_nothing_to_build(
    lake_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, told in ([], "there is nothing to build"), (["--dry-run"], "a dry run: nothing is built"):
        assert cli.main([*BACKFILL, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("backfill of 2026-01-05..2026-01-06 (2 days), mode due")
        assert lines[2].split() == ["we_mart.wv_comm_user", "0", "0", "0:00"]
        assert "we_mart.wv_comm_user: 2 days (2026-01-05..2026-01-06): we_mart.ods_wv_member_profile, " in lines[-2]
        assert lines[-1] == told


def test_backfill_goes_on_with_a_run_that_there_is(
    lake_home: Path, project: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.pretend import BASE, DAYS, build, files_of, load

    project(files_of({BASE: ["shop.event"]}))
    load("shop.event", *DAYS)
    command = ["backfill", BASE, "--from", DAYS[0], "--to", DAYS[1], "--mode", "all", "--dry-run", "--run"]
    none = "no build of these tables and days is of that run; "
    cure = "A run that was stopped before its first build begins again without --run\n"
    assert cli.main([*command, "backfill-2"]) == 2
    assert capsys.readouterr().err == f"lake: --run backfill-2: {none}{cure}"
    build(BASE, DAYS[:1], run="backfill-20260101-000000")
    assert cli.main([*command, "backfill-20260101-00000"]) == 2
    assert f"{none}did you mean backfill-20260101-000000? {cure}" in capsys.readouterr().err
    assert cli.main([*command, "backfill-20260101-000000"]) == 0
    assert "built by this run already" in capsys.readouterr().out


def test_status_tells_people_and_programs_the_same(
    lake_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_text('{"date_id": "2026-01-05"}\n')
    assert cli.main(["load", "service_log.weverse_server_log", str(tmp_path / "log.jsonl")]) == 0
    capsys.readouterr()
    tables = ["service_log.weverse_server_log", "we_mart.wv_server_log_base"]
    assert cli.main(["status", *tables, "--from", "2026-01-04", "--to", "2026-01-05", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(line["table"], line["day"], line["state"], line["rows"]) for line in found] == [
        (tables[0], "2026-01-04", "missing", None),
        (tables[0], "2026-01-05", "fresh", 1),
        (tables[1], "2026-01-04", "missing", None),
        (tables[1], "2026-01-05", "missing", None),
    ]
    assert found[2]["why"] == "never built; service_log.weverse_server_log of 2026-01-04 is missing"
    assert found[3]["why"] == "never built; its inputs are there"
    assert cli.main(["status", *tables, "--from", "2026-01-04", "--to", "2026-01-05"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [tables[1], "missing", "missing"]
    assert lines[2].split() == [tables[0], "missing", "loaded"]


def test_status_of_a_table_shows_the_days_that_only_its_inputs_have(
    lake_home: Path, project: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.pretend import BASE, DAYS, SOURCE, TOP, build, files_of, load

    partly = SOURCE + "ready_when: count(*) > 1\n"
    project(files_of({BASE: ["shop.event", "shop.other"], TOP: [BASE]}) | {"shop/other.yaml": partly})
    load("shop.event", DAYS[0])
    load("shop.other", DAYS[0], DAYS[0])
    build(BASE, DAYS[:1])
    build(TOP, DAYS[:1])
    load("shop.event", DAYS[1])
    load("shop.other", DAYS[1])
    for table, reason in (
        (TOP, f"never built; {BASE} of {DAYS[1]} is missing"),
        (BASE, f"never built; shop.other of {DAYS[1]} is not complete: "),
        ("shop.other", "1 row, but it is not complete: "),
    ):
        assert cli.main(["status", table]) == 0
        head, row, *reasons = capsys.readouterr().out.splitlines()
        assert head.endswith(f"..{DAYS[1]})")
        assert row.split()[-2:] == ["loaded" if table == "shop.other" else "fresh", "missing"]
        assert reasons[-1].startswith(f"{table} {DAYS[1]} is missing: {reason}")
        assert len(reasons) == 2 and reasons[0].startswith(f"{table} 2025-12-27..2025-12-31 is missing: ")
    assert cli.main(["status"]) == 0
    # Of all tables, only a day that has partly arrived is explained.
    (explained,) = (line for line in capsys.readouterr().out.splitlines() if " is missing: " in line)
    assert explained.startswith(f"shop.other {DAYS[1]} ")
    assert cli.main(["status", TOP, "--from", DAYS[5]]) == 0, "a day after the newest one is no wrong range"
    assert capsys.readouterr().out.splitlines()[0].endswith(f"({DAYS[5]})")


def test_a_row_of_a_wrong_year_does_not_move_the_range_of_status(
    lake_home: Path, project: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.pretend import BASE, DAYS, files_of, load

    project(files_of({BASE: ["shop.event"]}))
    before = task_lists.today()
    load("shop.event", DAYS[0], "2836-01-05")
    assert cli.main(["status", BASE]) == 0
    told = capsys.readouterr()
    assert before <= told.out.splitlines()[0][-11:-1] <= task_lists.today()
    assert told.err == "shop.event has days after today, up to 2836-01-05: --to 2836-01-05 shows them\n"
    assert cli.main(["status", "shop.event", "--to", "2836-01-05"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[1].split()[-1] == "loaded" and told.err == ""


def test_status_shows_a_day_that_was_loaded_as_empty(
    lake_home: Path, project: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.pretend import BASE, DAYS, files_of

    project(files_of({BASE: ["shop.event"]}))
    (tmp_path / "events.jsonl").write_text(json.dumps({"day": DAYS[0]}) + "\n")
    load = ["load", "shop.event", str(tmp_path / "events.jsonl"), "--from", DAYS[0], "--to", DAYS[1]]
    assert cli.main(load) == 0
    capsys.readouterr()
    assert cli.main(["status", BASE]) == 0
    assert f"{BASE} {DAYS[0]}..{DAYS[1]} is missing: never built; its inputs are there" in capsys.readouterr().out


def test_status_where_no_day_is_yet_says_what_makes_one(
    lake_home: Path, project: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.pretend import BASE, DAYS, SOURCE, files_of, load

    project(files_of({BASE: ["shop.event"]}) | {"shop/other.yaml": SOURCE})
    load("shop.other", DAYS[0])
    load("we_mart.we_artist")
    for table, message in (
        (BASE, f"no days yet of {BASE}, nor of shop.event: ./lake load shop.event FILE takes yours"),
        ("we_mart.we_user", "no days yet of we_mart.we_user: ./lake load we_mart.we_user FILE takes yours, "
                            "./lake sample --from D --to D makes sample data"),
    ):  # fmt: skip
        assert cli.main(["status", table]) == 1
        assert capsys.readouterr().err == f"lake: {message}\n"
    torn = max((lake_home / "warehouse/shop/other/_delta_log").glob("*.json"))
    torn.write_bytes(torn.read_bytes()[:-40])
    assert cli.main(["status", "shop.other"]) == 1
    assert "its newest commit is torn" in capsys.readouterr().err, "nobody knows whether it has days"


def test_what_is_one_is_told_as_one(lake_home: Path, project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Stands for: counts and ranges in all lines for people."""
    from tests.pretend import BASE, DAYS, build, files_of, load

    project(files_of({BASE: ["shop.event"]}))
    load("shop.event", *DAYS[:2])
    for days, head in ((DAYS[:1], f"{DAYS[0]} (1 day)"), (DAYS[:2], f"{DAYS[0]}..{DAYS[1]} (2 days)")):
        assert cli.main(["backfill", BASE, "--from", days[0], "--to", days[-1], "--dry-run"]) == 0
        assert capsys.readouterr().out.startswith(f"backfill of {head}, mode due")
    build(BASE, DAYS[:1])
    assert cli.main(["status", "--why", BASE, "--day", DAYS[0]]) == 0
    first, source, last = capsys.readouterr().out.splitlines()
    assert first == f"{BASE} {DAYS[0]} is fresh" and source.endswith(" is fresh: loaded, 1 row")
    assert last.startswith("last built ") and last.endswith(" by test: 1 row")


def test_lineage_shows_both_directions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lineage", "we_mart.wv_comm_user"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  we_mart.ods_wv_member_profile  (source)  (and 2 earlier days)" in lines
    assert lines[-1] == "read by: we_mart.wv_sess_daily"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for command in (
        "sample",
        "load",
        "build",
        "backfill",
        "maintain",
        "status",
        "show",
        "lineage",
        "new",
        "ledger",
        "engine",
    ):
        assert f"    {command} " in told


def test_help_of_load_names_all_that_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["load", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert ".jsonl, .csv or .parquet, a folder of such files, or of a Delta table" in told


def test_show_prints_the_rows_of_a_day(lake_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text('{"date_id": "2026-01-05", "topic": "한글"}\n' * 3)
    cli.main(["load", "service_log.weverse_server_log", str(tmp_path / "log.jsonl")])
    capsys.readouterr()
    show = ["show", "service_log.weverse_server_log"]
    assert cli.main([*show, "--day", "2026-01-05", "--rows", "2"]) == 0
    told = capsys.readouterr().out
    assert told.count("한글") == 2 and "3 rows, 2 shown" in told
    assert told.splitlines()[-1] == f"stored in {lake_home / 'warehouse/service_log/weverse_server_log'}"
    assert cli.main(show) == 2
    assert "name one with --day" in capsys.readouterr().err


def test_show_tells_a_day_that_is_missing_from_one_that_is_empty(
    lake_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_text('{"date_id": "2026-01-05"}\n')
    assert cli.main(["load", LOG, str(tmp_path / "log.jsonl"), "--from", "2026-01-04", "--to", "2026-01-05"]) == 0
    built = "we_mart.wv_server_log_base"
    storage.ensure(contracts.get(built))
    capsys.readouterr()
    assert cli.main(["show", LOG, "--day", "2026-01-04"]) == 0
    assert f"0 rows\n{LOG} of 2026-01-04 has no rows: empty, and complete\n" in capsys.readouterr().out
    for table, cure in (
        (LOG, f"load {LOG} FILE"),
        (built, f"build {built} --upstream --from 2026-01-03 --to 2026-01-03"),
    ):
        assert cli.main(["show", table, "--day", "2026-01-03"]) == 1
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith(f"lake: {table} of 2026-01-03 is missing: ")
        assert told.err.endswith(f": ./lake {cure}\n")


def test_new_writes_stubs_that_hold_and_the_line_in_the_task_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dags/utils/dynamic_dag/wev/task_list"
    folder.mkdir(parents=True)
    name = "analytics_we_mart_wv1_daily"
    task_list = settings.ROOT / f"dags/utils/dynamic_dag/wev/task_list/{name}.py"
    (folder / f"{name}.py").write_text(task_list.read_text())
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    assert cli.main(["new", "we_mart.stats_wv_d_platform", "--dag", name]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["wrote", "wrote", "wrote", "added", "Edit"]
    assert told[3].startswith("added a line to ") and told[3].endswith(f"{name}.py")
    project({})
    from include.lake.project import contracts, lineage

    assert not contracts.get("we_mart.stats_wv_d_platform").is_source
    assert lineage.inputs("we_mart.stats_wv_d_platform") == ("we_mart.wv_sess_daily",)
    values: dict = {}
    exec((folder / f"{name}.py").read_text(), values)
    assert values["dag_task_list"][-1] == {"step": "stats_wv_d_platform", "list": ["we_mart.stats_wv_d_platform"]}
    assert (tmp_path / "tests/cases/we_mart/stats_wv_d_platform/counted_once.yaml").exists()


HEAD = """\
\"\"\"하루.\"\"\"
dag_id = "shop_daily"
owner = "me"
schedule = "daily"
timezone = "UTC"
look_back_days = 0
"""
STEP = '{"step": "all", "list": ["shop.base"]}'


@pytest.fixture
def shop_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Any) -> Path:
    """Where the task list of a project is that has no other."""
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    path = tmp_path / "dags/utils/dynamic_dag/shop/task_list/shop_daily.py"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("table", ["shop.more", "shop.all", "shop.inputs"])
@pytest.mark.parametrize(
    "steps",
    [
        f"[{STEP}]", f"[ {STEP}, ]  # 끝", "[]", "[\n]", f"[\n    {STEP}\n]\n", f"[\n    {STEP}  # one, two\n    ]\n",
        f"[\n    {STEP},  # one\n    # two\n]\n", f"[{STEP}\n    ,\n]",
    ],
)  # fmt: skip
def test_new_adds_its_line_to_any_list(shop_list: Path, steps: str, table: str) -> None:
    shop_list.write_text(HEAD + f"dag_task_list = {steps}")
    assert cli.main(["new", table, "--dag", "shop_daily"]) == 0
    task_list, lines = task_lists.parse(text_now := shop_list.read_text(), shop_list, [])
    label = {"shop.all": "shop_all" if STEP in steps else "all", "shop.inputs": "shop_inputs"}.get(table, "more")
    assert task_list.steps[-1] == (label, (table,)) and len(task_list.steps) == steps.count(STEP) + 1
    assert text_now.count("#") == steps.count("#"), "comments stay"
    assert text_now.splitlines()[lines[-1][1] - 1] == f'    {{"step": "{label}", "list": ["{table}"]}},'
    assert "comment: day in UTC}" in (settings.SQL / f"{table.replace('.', '/')}.yaml").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD, "shop_daily.py:1: `dag_task_list` is missing"),
        (HEAD + "dag_task_list = [", "shop_daily.py:7: is not Python: '[' was never closed"),
        (HEAD + "dag_task_list = list()", "shop_daily.py:7: `dag_task_list` must be a plain literal"),
        (HEAD.replace("daily", "weekly", 2).replace("shop_weekly", "shop_daily") + f"dag_task_list = [{STEP}]",
         "runs by weeks, and the stubs are of a table of days: name a daily DAG"),
        (HEAD + 'dag_task_list = [{"step": "more", "list": ["shop.more"]}]', "shop.more is listed twice"),
    ],
)  # fmt: skip
def test_new_refuses_a_list_that_would_be_wrong_and_writes_nothing(
    shop_list: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    shop_list.write_text(content)
    assert cli.main(["new", "shop.more", "--dag", "shop_daily"]) in (1, 2)
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1 and told.out == ""
    assert shop_list.read_text() == content and not (settings.SQL / "shop").exists()


LOG = "service_log.weverse_server_log"
RANGE = ["--from", "2026-01-04", "--to", "2026-01-06"]


def test_values_are_printed_as_they_are() -> None:
    """Stands for: no detour by a type that cannot hold the value (a bigint with a null, a year 10000)."""
    moments = pa.array([1_500_000, 253402300800000000, None], pa.timestamp("us", "UTC"))
    rows = pa.table(
        {
            "id": [9007199254740993, None, 3],
            "share": [1.5, float("nan"), None],
            "at": moments,
            "name": ["위버스", "two\nlines\x1b[31m", "x" * 50],
            "ids": [[9007199254740993, None], None, []],
            "moments": pa.array([[253402300800000000], None, []], pa.list_(moments.type)),
        }
    )
    assert text.table(rows) == [
        "              id  share  at                          name                                      "
        "ids                       moments",
        "9007199254740993    1.5  1970-01-01 00:00:01.500000  위버스                                    "
        "[9007199254740993, NULL]  [10000-01-01 00:00:00]",
        "            NULL    nan  10000-01-01 00:00:00        two\\nlines\\x1b[31m                        "
        "NULL                      NULL",
        f"               3   NULL  NULL                        {'x' * 39}…  []                        []",
    ]
    assert text.table(rows.slice(0, 0)) == ["id  share  at  name  ids  moments"]


@pytest.mark.parametrize("stray", ["abc", "", None, "10000-01-01", "9999-12-32", "2026-01-0x", "0", "9999-12-31"])
def test_a_partition_that_is_no_day_stops_nothing(
    lake_home: Path, capsys: pytest.CaptureFixture[str], stray: str | None
) -> None:
    """Stands for: others write a source, so that nothing of ours may rely on what its partitions are called."""
    for table in (LOG, "we_mart.ods_wv_member_profile"):
        contract = contracts.get(table)
        storage.ensure(contract)
        schema = storage.arrow_schema(contract)
        days = pa.array(["2026-01-05", stray])
        columns = {name: days if name == contract.day_column else pa.nulls(2, schema.field(name).type)
                   for name in schema.names}  # fmt: skip
        write_deltalake(storage.address(table), pa.table(columns, schema=schema), mode="append")
    assert cli.main(["status"]) == 0
    assert cli.main(["status", *RANGE]) == 0
    assert cli.main(["status", "--why", "we_mart.wv_comm_user", "--day", "2026-01-06"]) == 0
    assert cli.main(["backfill", "logs", *RANGE, "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.main(["show", LOG, "--day", "2026-01-05"]) == 0
    assert "1 row\n" in capsys.readouterr().out
    assert cli.main(["build", "we_mart.wv_comm_user", *RANGE]) == 1
    assert "has to wait" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        *("a#b", "a?b", "a%20b", "a[b]", "a\\b", "a^b", "a|b", 'a"b', "a\nb", "a\x7fb", "~no-such-user/b"),
        *("a*b", "a{b,c}", "a<b", "a>b", "a~b", "a`b"),
    ],
)
@pytest.mark.parametrize(
    "command", [["status"], ["show", LOG], ["lineage"], ["engine", "status"], ["ledger", "rebuild"]]
)
def test_a_folder_with_which_delta_goes_wrong_is_refused_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, command: list[str]
) -> None:
    monkeypatch.setenv("LAKE_HOME", name if name.startswith("~") else str(tmp_path / name))
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert message.startswith("lake: LAKE_HOME=") and "set " in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing may be written"


@pytest.mark.parametrize("name", ["a b", "위버스", "a'b", "a$b", "a&b", "a=b", "a,b", "a:b"])
def test_other_folders_are_as_good_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("LAKE_HOME", str(tmp_path / name))
    (tmp_path / "log.jsonl").write_text('{"date_id": "2026-01-05"}\n')
    assert cli.main(["load", LOG, str(tmp_path / "log.jsonl")]) == 0
    assert cli.main(["load", LOG, str(tmp_path / "log.jsonl")]) == 0
    capsys.readouterr()
    assert cli.main(["show", LOG, "--day", "2026-01-05"]) == 0
    assert "1 row\nstored in" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [name]


@contextmanager
def a_spark_server_that_says(status: str, details: str) -> Iterator[str]:
    """A server of gRPC that answers every call of a client of Spark with an error; gives its address."""
    import grpc

    class Refusing(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            def refuse(request: Any, context: Any) -> Any:
                context.abort(grpc.StatusCode[status], details)
                yield b""

            return grpc.unary_stream_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.stop(0)


def test_a_server_of_others_is_neither_started_nor_stopped_and_asked_whether_it_answers(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_spark_server_that_says("INTERNAL", "the very cause") as address:
        monkeypatch.setenv("LAKE_ENGINE", address)
        for what in ("start", "stop"):
            assert cli.main(["engine", what]) == 2
            told = capsys.readouterr().err
            assert told.startswith(f"lake: LAKE_ENGINE names a server that others run: start and stop {address} where")
            assert told.count("\n") == 1
        assert not lake_home.exists(), "no server may be started"
        assert cli.main(["engine", "status"]) == 1
        assert capsys.readouterr().err == f"lake: {address} listens, but gives no session: the very cause\n"
    with a_spark_server_that_says("UNAUTHENTICATED", "Invalid authentication token") as address:
        monkeypatch.setenv("LAKE_ENGINE", address)
        assert cli.main(["engine", "status"]) == 1
        assert capsys.readouterr().err.endswith(" refuses our token: set LAKE_ENGINE_TOKEN to the one of the server\n")
    assert cli.main(["engine", "status"]) == 1
    told = capsys.readouterr().err
    assert " does not answer (" in told and told.endswith("): start it, or correct LAKE_ENGINE\n")


def test_a_session_that_its_server_refuses_is_not_the_active_one(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else PySpark asks it for what the next session of this process computes."""
    from pyspark.sql.connect.session import SparkSession

    active = SparkSession.getActiveSession()
    with a_spark_server_that_says("INTERNAL", "the very cause") as address:
        monkeypatch.setenv("LAKE_ENGINE", address)
        assert cli.main(["engine", "status"]) == 1
    assert SparkSession.getActiveSession() is active


def test_a_sail_that_is_named_as_a_server_of_spark_is_refused(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from include.lake.engine import sail

    monkeypatch.setattr(sail, "_own", {})
    own, address, token = sail._of_this_process()
    try:
        monkeypatch.setenv("LAKE_ENGINE", address)
        monkeypatch.setenv("LAKE_ENGINE_TOKEN", token)
        assert cli.main(["engine", "status"]) == 2
        told = capsys.readouterr().err
        assert f"the server at {address} is no Spark" in told and told.endswith("for Sail, LAKE_ENGINE=sail\n")
    finally:
        own.kill()


def test_a_server_of_the_other_engine_is_named(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert cli.main(["engine", "start"]) == 0
        monkeypatch.setenv("LAKE_ENGINE", "spark")
        address = capsys.readouterr().out.strip()
        assert cli.main(["engine", "status"]) == 1
        told = f"a server of another engine runs at {address}, and builds do not use it: ./lake engine stop ends it\n"
        assert capsys.readouterr().out == told
    finally:
        assert cli.main(["engine", "stop"]) == 0


def test_a_table_that_waits_does_not_hold_up_those_after_it(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one_more = {
        "shop/absent.yaml": FILES["shop/event.yaml"],
        "shop/before.yaml": FILES["shop/total.yaml"],
        "shop/before.sql": SELECT.replace("shop.event", "shop.absent"),
    }
    shop(one_more)
    of_shop.load(("a", 1, DAY))
    assert cli.main(["build", "shop.before", TABLE, "--from", DAY, "--to", DAY]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"lake: shop.before {DAY} has to wait: shop.absent of {DAY} is ")
    assert f"{TABLE} {DAY} built: 1 row in " in told.out


def test_a_circle_of_selects_is_one_line(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shop({"shop/total.sql": SELECT.replace("shop.event", TABLE)})
    commands = (["lineage", TABLE], ["status", "--why", TABLE, "--day", DAY], ["try", TABLE, "--day", DAY])
    for command in commands:
        assert cli.main(command) in (1, 2)
        assert f"the SELECTs read each other in a circle: {TABLE} -> {TABLE}" in capsys.readouterr().err, command


def test_days_that_wait_for_different_reasons_have_a_reason_each(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shop({"shop/event.yaml": FILES["shop/event.yaml"] + "ready_when: max(amount) = 2\n"})
    of_shop.load(("a", 2, DAY), ("a", 1, NEXT), ("b", 2, "2026-01-08"))
    assert cli.main(["status", TABLE, "--from", NEXT, "--to", LAST]) == 0
    told = capsys.readouterr().out
    assert f"{TABLE} {NEXT} is missing: never built; shop.event of {NEXT} is not complete: " in told
    assert f"{TABLE} {LAST} is missing: never built; shop.event of {LAST} is missing" in told
    assert cli.main(["build", TABLE, "--from", NEXT, "--to", LAST]) == 1
    told = capsys.readouterr().err
    assert f"shop.event of {NEXT} is not complete: " in told and f"; shop.event of {LAST} is missing" in told


def test_databricks_has_no_server_to_start(
    on_databricks: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for what in ("start", "status"):
        assert cli.main(["engine", what]) == 2
        assert capsys.readouterr().err.endswith("Databricks starts what it needs, there is no server of ours\n")


def lake(*arguments: str, stdout: Any = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    """./lake in a process of its own."""
    command = [sys.executable, "-m", "include.lake.cli", *arguments]
    return subprocess.run(
        command, env={**os.environ, **env}, cwd=settings.ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


NOWHERE = "/proc/nowhere"  # nobody makes a folder there, not even root


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("LAKE_HOME", NOWHERE),
        ("LAKE_HOME", __file__),
        ("LAKE_HOME", f"{__file__}/below"),
        ("LAKE_WAREHOUSE", NOWHERE),
        ("LAKE_WAREHOUSE", f"file://{__file__}"),
        ("LAKE_ENGINE", "duck"),
        ("LAKE_ENGINE", "sc://localhost:99999"),
        ("LAKE_ENGINE", "sc://localhost:0"),
        ("LAKE_ENGINE_MEMORY", "nonsense"),
        ("LAKE_ENGINE_CORES", "1000000"),
        ("LAKE_POLL_SECONDS", "0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line_before_anything_starts(
    lake_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.setenv(setting, value)
    for command in (BUILD, ["sample", *BUILD[2:]], ["load", LOG, __file__], ["engine", "start"], ["ledger", "rebuild"]):
        assert cli.main(command) == 2, command
        message = capsys.readouterr().err
        assert message.startswith(f"lake: {setting}=") and message.count("\n") == 1, message
        assert "retry" not in message
    assert not lake_home.exists()


def test_who_only_looks_needs_no_folder_to_write_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_HOME", NOWHERE)
    assert cli.main(["status"]) == 1
    assert "no days yet of any table" in capsys.readouterr().err


def test_an_error_of_the_system_ends_in_a_few_lines() -> None:
    """Stands for: Spark, gRPC, Delta, disk; whatever the command, its class and its cause and no traceback."""
    with open("/dev/full", "w") as full:
        ended = lake("lineage", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "lake: lineage failed (infrastructure error; a retry may help: this is not about the data or the SELECT)",
        "No space left on device",
    ]


@pytest.mark.parametrize(
    ("status", "details", "message"),
    [
        ("UNAUTHENTICATED", "Invalid authentication token", "refuses our token: set LAKE_ENGINE_TOKEN"),
        ("INTERNAL", "the very cause", "the very cause"),
    ],
)
def test_an_error_of_the_spark_server_is_a_few_lines_in_backfill_too(
    lake_home: Path, project: Any, capsys: pytest.CaptureFixture[str], status: str, details: str, message: str
) -> None:
    from tests.pretend import BASE, DAYS, files_of, load

    project(files_of({BASE: ["shop.event"]}))
    load("shop.event", DAYS[0])
    code = f"import pathlib\nfrom include.lake import settings\nsettings.SQL = pathlib.Path({str(settings.SQL)!r})"
    code += "\nfrom include.lake.cli import main as cli"
    run = f"{code}\nraise SystemExit(cli.main(['backfill', {BASE!r}, '--from', {DAYS[0]!r}, '--to', {DAYS[0]!r}]))"
    with a_spark_server_that_says(status, details) as address:
        env = {**os.environ, "LAKE_ENGINE": address, "LAKE_ENGINE_TOKEN": "a very secret token"}
        ended = subprocess.run([sys.executable, "-c", run], env=env, cwd=settings.ROOT, capture_output=True, text=True)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("lake: ") or "secret" in line]
    assert ended.returncode == 1, ended.stderr
    assert message in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert len(lines) == 1 and "very secret" not in ended.stdout + ended.stderr
