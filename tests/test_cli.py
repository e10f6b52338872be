"""The command line as a stranger meets it."""

import json
from pathlib import Path

import pytest

from include.lake import cli, settings

BACKFILL = ["backfill", "members", "--from", "2026-01-05", "--to", "2026-01-06"]
BUILD = ["build", "we_mart.wv_sess_daily", "--from", "2026-01-05", "--to", "2026-01-05"]


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
        ([*BACKFILL, "--days-per-batch", "0"], "days per batch '0'"),
        ([*BACKFILL, "--run", "a b; --"], "--run"),
        (["show", "we_mart.nothing"], "there is no table"),
        (["where", "../../etc"], "there is no table"),
        (["sample", *BUILD[2:], "--scale", "0"], "scale"),
        (["new", "we_mart.X; --", "--dag", "analytics_we_mart_wv1_daily"], "is not a table name"),
        (["new", "we_mart.wv_sess_daily", "--dag", "analytics_we_mart_wv1_daily"], "is there already"),
        (["new", "we_mart.fresh_one", "--dag", "nothing_daily"], "there is no task list"),
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
    assert "has to wait: we_mart.we_artist is not loaded" in told and "./lake load we_mart.we_artist FILE" in told
    assert told.count("\n") == 1
    assert cli.main(["status"]) == 1
    assert "the lake is empty" in capsys.readouterr().err


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


def test_where_is_below_lake_home(lake_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["where", "we_mart.we_user"]) == 0
    assert capsys.readouterr().out.strip() == str(lake_home / "warehouse" / "we_mart" / "we_user")


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
        "status",
        "show",
        "where",
        "lineage",
        "new",
        "ledger",
        "spark",
    ):
        assert f"    {command} " in told


def test_show_prints_the_rows_of_a_day(lake_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text('{"date_id": "2026-01-05", "topic": "한글"}\n' * 3)
    cli.main(["load", "service_log.weverse_server_log", str(tmp_path / "log.jsonl")])
    capsys.readouterr()
    show = ["show", "service_log.weverse_server_log"]
    assert cli.main([*show, "--day", "2026-01-05", "--rows", "2"]) == 0
    told = capsys.readouterr().out
    assert told.count("한글") == 2 and "3 rows, 2 shown" in told
    assert cli.main(show) == 2
    assert "name one with --day" in capsys.readouterr().err


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
    capsys.readouterr()
    project({})
    from include.lake import contracts, lineage

    assert not contracts.get("we_mart.stats_wv_d_platform").is_source
    assert lineage.inputs("we_mart.stats_wv_d_platform") == ("we_mart.wv_sess_daily",)
    values: dict = {}
    exec((folder / f"{name}.py").read_text(), values)
    assert values["dag_task_list"][-1] == {"step": "stats_wv_d_platform", "list": ["we_mart.stats_wv_d_platform"]}
    assert (tmp_path / "tests/cases/we_mart/stats_wv_d_platform/counted_once.yaml").exists()
