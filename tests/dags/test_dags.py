"""The DAGs as Airflow sees them: every task list is one, with the edges of the SELECTs, quickly and always the same."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import airflow_home

# isort: split
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from lake_airflow import tasks
from lake_airflow.maintenance import MaintainTable
from lake_airflow.tasks import DAY, BuildTable, LateDays, PartitionSensor, usable_partition
from lake_airflow.timetable import DailyPartitions
from lazy_object_proxy import Proxy
from utils.dynamic_dag import factory

from include.lake import settings
from include.lake.errors import CheckFailed, ContractError, InputsMissing, UsageError, WriteConflict
from include.lake.project import contracts, lineage, task_lists
from tests.pretend import build as pretend_build

DAGS = airflow_home.ROOT / "dags"
TASK_LISTS = task_lists.paths()
GOOD = '''"""What it is for."""
dag_id = "good"
owner = "me"
schedule = "daily"
timezone = "Asia/Seoul"
look_back_days = 2
dag_task_list = [
    {"step": "members", "list": ["we_mart.wv_comm_user"]},
    {"step": "sessions", "list": ["we_mart.wv_sess_daily"]},
]
'''

# What each DAG is, for people who review a change: rewritten by `make approve`.
APPROVED = Path(__file__).parents[1] / "approved" / "dags"


@pytest.fixture(scope="module")
def bag():
    return DagBag(DAGS)


def picture(dag) -> dict:
    """Schedule, tasks, edges, patience and timeouts of a DAG."""

    def hours(span) -> float:
        return round(span.total_seconds() / 3600, 2)

    def of(task) -> dict:
        facts = {"kind": type(task).__name__, "after": sorted(task.upstream_task_ids), "retries": task.retries}
        if task.trigger_rule != "all_success":
            facts["trigger_rule"] = str(task.trigger_rule)
        if isinstance(task, PartitionSensor):
            return facts | {"patience_hours": task.hours, "readers": task.readers}
        if isinstance(task, LateDays):
            facts |= {"look_back_days": task.look_back_days, "tables": task.tables}
        return facts | {"timeout_hours": task.execution_timeout and hours(task.execution_timeout)}

    def schedule(timetable) -> dict | None:
        if isinstance(timetable, DailyPartitions):
            return timetable.serialize()
        cron = getattr(timetable, "expression", None)
        return cron and {"cron": cron, "timezone": dag.timezone.name}

    return {
        "schedule": schedule(dag.timetable),
        "max_active_runs": dag.max_active_runs, "owner": dag.owner, "tags": sorted(dag.tags),
        "tasks": {task.task_id: of(task) for task in sorted(dag.tasks, key=lambda task: task.task_id)},
    }  # fmt: skip


def test_every_task_list_is_a_dag_and_every_dag_a_task_list(bag):
    assert bag.import_errors == {}
    assert TASK_LISTS
    assert {path.stem for path in TASK_LISTS} <= set(bag.dags)


def test_every_dag_is_as_it_was_approved(bag):
    """A change of a DAG shows in the review, as a change of its file in tests/approved."""
    pictures = {dag_id: json.dumps(picture(dag), indent=1) + "\n" for dag_id, dag in sorted(bag.dags.items())}
    if os.environ.get("APPROVE"):
        APPROVED.mkdir(parents=True, exist_ok=True)
        for old in APPROVED.glob("*.json"):
            old.unlink()
        for dag_id, text in pictures.items():
            (APPROVED / f"{dag_id}.json").write_text(text)
    assert {path.stem: path.read_text() for path in APPROVED.glob("*.json")} == pictures, "if it is meant: make approve"


def test_a_family_without_a_dag_file_is_named(monkeypatch, tmp_path):
    assert factory.without_dag_file() == []
    (tmp_path / "wev.py").write_text((DAGS / "wev.py").read_text())
    (tmp_path / "audio.py").write_text('# dags_of("audio")\nfactory.dags_of("wev")\n')
    monkeypatch.setattr(factory, "_DAGS", tmp_path)
    cure = "has no DAGs: make it like dags/wev.py"
    assert factory.without_dag_file() == [
        f'dags/audio.py does not call dags_of("audio"), so the family audio {cure}',
        f"dags/rudder.py is missing, so the family rudder {cure}",
    ]
    (tmp_path / "audio.py").write_text("for family in FAMILIES:\n    globals().update(dags_of(family))\n")
    (tmp_path / "rudder.py").write_text("what Airflow cannot parse is its own error")
    assert factory.without_dag_file() == []


@pytest.mark.parametrize(("family", "hint"), [("ruder", "did you mean rudder?"), ("x", "there are audio, rudder, wev")])
def test_a_family_that_does_not_exist_is_an_import_error_with_the_near_one(tmp_path, family, hint):
    (tmp_path / "new.py").write_text((DAGS / "wev.py").read_text().replace("wev", family))
    (message,) = DagBag(tmp_path / "new.py").import_errors.values()
    where = f"dags/utils/dynamic_dag/{family}/task_list"
    assert f'dags_of("{family}"): there is no task list in {where}; {hint}' in message


def test_families_that_nobody_starts_are_paused_at_first(monkeypatch):
    def paused() -> dict:
        made = {family: factory.dags_of(family).values() for family in ("wev", "rudder", "audio")}
        return {family: {dag.is_paused_upon_creation for dag in dags} for family, dags in made.items()}

    assert paused() == {"wev": {None}, "rudder": {None}, "audio": {None}}, "as Airflow's own setting says"
    monkeypatch.setenv("FAMILIES", "wev, audio")
    assert paused() == {"wev": {None}, "rudder": {True}, "audio": {None}}


@pytest.mark.parametrize("path", TASK_LISTS, ids=lambda path: path.stem)
def test_tasks_and_edges_are_those_of_the_selects(bag, path):
    dag, task_list = bag.dags[path.stem], task_lists.read(path)
    built = {task.table for task in dag.tasks if isinstance(task, BuildTable)}
    waited = {task.table: task for task in dag.tasks if isinstance(task, PartitionSensor)}
    assert built == set(task_list.tables)
    (late_days,) = (task for task in dag.tasks if isinstance(task, LateDays))
    assert late_days.tables == task_list.tables
    assert not late_days.upstream_task_ids and not late_days.downstream_task_ids, "it blocks nothing of today"
    assert len(dag.tasks) == len(built) + len(waited) + 1
    for table in built:
        upstream = {dag.get_task(task_id).table for task_id in dag.get_task(table).upstream_task_ids}
        assert upstream == set(lineage.inputs(table))
        assert upstream <= built | set(waited)
    for name, sensor in waited.items():
        assert not sensor.upstream_task_ids
        assert sensor.readers == [table for table in task_list.tables if name in lineage.inputs(table)] != []


def test_maintenance_has_a_task_for_each_table_and_leaves_the_workers_to_builds(bag, lake_home, monkeypatch):
    dag = bag.dags["lake_maintenance"]
    tables = {task.table: task for task in dag.tasks if isinstance(task, MaintainTable)}
    assert tables.keys() == {*(name for name, one in contracts.load_all().items() if not one.view), contracts.LEDGER}
    assert (dag.max_active_runs, dag.max_active_tasks) == (1, 2) and "clustered_by" in dag.doc_md
    for task in dag.tasks:
        assert task.retries and task.execution_timeout and (task.priority_weight, task.weight_rule) == (0, "absolute")
    assert tables["we_mart.we_user"].execute({}) == "we_mart.we_user does not exist yet"
    assert dag.get_task("left_over").execute({}) == 0
    monkeypatch.setenv("LAKE_ENGINE", settings.DATABRICKS)
    monkeypatch.setenv("LAKE_CATALOG", "wev_dev")
    assert tables["we_mart.we_user"].execute({}) == "Databricks maintains its managed tables itself"
    assert dag.get_task("left_over").execute({}) == 0


@pytest.mark.parametrize(
    ("kind", "before", "skips"),
    [("scheduled", None, True), ("scheduled", "a week ago", False), ("manual", None, False)],
)
def test_the_first_run_of_maintenance_leaves_a_fresh_lake_alone(bag, kind, before, skips):
    dag, pushed = bag.dags["lake_maintenance"], {}
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
    run = SimpleNamespace(run_type=kind)
    dag.get_task("first_week").execute({"dag_run": run, "prev_start_date_success": Proxy(lambda: before), "ti": ti})
    others = sorted(task.task_id for task in dag.tasks if task.task_id != "first_week")
    assert pushed == ({"skipmixin_key": {"skipped": others}} if skips else {})


@pytest.mark.parametrize("path", TASK_LISTS, ids=lambda path: path.stem)
def test_a_dag_is_bounded_and_documented(bag, path):
    dag, task_list = bag.dags[path.stem], task_lists.read(path)
    assert dag.timezone.name == task_list.timezone == dag.timetable.serialize()["timezone"]
    assert not dag.catchup
    assert task_list.about.splitlines()[0] in dag.doc_md
    for task in dag.tasks:
        assert task.owner == task_list.owner
        assert task.retries and task.retry_exponential_backoff and task.max_retry_delay
        assert task.execution_timeout or task.start_trigger_args.timeout
        if isinstance(task, LateDays):
            continue
        assert task.table in dag.doc_md
        contract = contracts.get(task.table)
        assert contract.about in task.doc_md
        assert all(f"| {column.name} | {column.type} |" in task.doc_md for column in contract.columns)


IN_A_NEW_PROCESS = """
import json, sys, time
import airflow.sdk
from airflow.sdk import DAG, BaseOperator, TaskGroup
started = time.process_time()
import backfill
import maintenance
import wev
seconds = time.process_time() - started
heavy = sorted(set(sys.modules) & {"pyspark", "pyarrow", "databricks", "deltalake", "pandas", "numpy", "fastapi"})
from airflow.serialization.serialized_objects import DagSerialization
parsed = [DagSerialization.to_dict(value) for file in (backfill, maintenance, wev)
          for value in vars(file).values() if isinstance(value, DAG)]
print(json.dumps({"seconds": seconds, "heavy": heavy, "parsed": json.dumps(parsed, sort_keys=True)}))
"""


def test_ten_parses_are_quick_import_nothing_heavy_and_give_the_same_dags():
    """In new processes, each with other hashes of the same strings."""
    # Compiled modules are kept between the processes, as on any installed Airflow.
    environment = {
        **os.environ,
        **airflow_home.SETTINGS,
    }
    environment["PYTHONPATH"] = os.pathsep.join(str(airflow_home.ROOT / folder) for folder in ("", "dags", "plugins"))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def parse(seed: int) -> dict:
        command = [sys.executable, "-c", IN_A_NEW_PROCESS]
        seeded = {**environment, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(command, env=seeded, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        parses = list(pool.map(parse, range(10)))
    assert len({found["parsed"] for found in parses}) == 1
    assert "we_mart.wv_sess_daily" in parses[0]["parsed"] and "first_day" in parses[0]["parsed"]
    assert [found["heavy"] for found in parses] == [[]] * 10
    # CPU seconds beyond the import of airflow.sdk: 0.2 on an idle machine, more where others work too.
    assert min(found["seconds"] for found in parses) < 0.5


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A family of task lists of its own."""
    folder = tmp_path / "dags" / "utils" / "dynamic_dag" / "fam" / "task_list"
    folder.mkdir(parents=True)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"""What it is for."""\n', "x = 1\n", ":1: say in a docstring at the top what the DAG is for"),
        ('owner = "me"', "", ":1: `owner` is missing"),
        ('owner = "me"', 'owner = "me"\nretries = 3', ":4: unknown field `retries`; the fields are dag_id, owner,"),
        ('owner = "me"', 'owner = "me"\nowner = "you"', ":4: `owner` is given twice"),
        ('owner = "me"', "owner = 3", ":3: `owner` is a text"),
        ('owner = "me"', "import os", ":3: a task list has only assignments to"),
        ('owner = "me"', "owner = print(1)", ":3: `owner` must be a plain literal"),
        ('owner = "me"', 'owner = "me', ":3: is not Python"),
        ('"good"', '"bad"', ":2: dag_id is 'bad' and the file good.py: name them alike"),
        ('"daily"', '"hourly"', ":4: schedule 'hourly' is unknown: write one of daily, weekly, monthly"),
        ("look_back_days = 2", "look_back_days = -1", ":6: `look_back_days` is a number from 0 to 31"),
        ("look_back_days = 2", "look_back_days = True", ":6: `look_back_days` is a number from 0 to 31"),
        ("look_back_days = 2", 'look_back_days = "2"', ":6: `look_back_days` is a number from 0 to 31"),
        ("Asia/Seoul", "Asia/Soul", ":5: timezone 'Asia/Soul' is unknown"),
        ("Asia/Seoul", "../Asia/Seoul", ":5: timezone '../Asia/Seoul' is unknown"),
        ("Asia/Seoul", "asia/seoul", ":5: timezone 'asia/seoul' is unknown"),
        ("Asia/Seoul", "Asia", ":5: timezone 'Asia' is unknown"),
        ("Asia/Seoul", "localtime", ":5: timezone 'localtime' is unknown"),
        ('owner = "me"', 'owner = " "', ":3: `owner` is a text"),
        ('owner = "me"', "owner = {[]: 1}", ":3: `owner` must be a plain literal"),
        ('owner = "me"', "owner = " + "(" * 1000 + ")" * 1000, ""),
        ('owner = "me"', 'owner = "\0"', ":1: is not Python"),
        ('"step": "members"', '"step": "members", "step": "others"', ":8: a step is"),
        ('"step": "members"', '"step": "members", "list": ["a.b", "c.d"]', ":8: a step is"),
        ('"step": "members"', '"step": "members", "pool": "x"', ":8: a step is"),
        ('"we_mart.wv_comm_user"', '["we_mart.wv_comm_user"]', ":8: a step is"),
        ('{"step": "members", "list": ["we_mart.wv_comm_user"]}', '"we_mart.wv_comm_user"', ":8: a step is"),
        ('{"step": "members", "list"', '{"label": "members", "list"', ":8: a step is"),
        ('["we_mart.wv_comm_user"]', '"we_mart.wv_comm_user"', ":8: a step is"),
        ('"members"', '"sessions"', ":9: step 'sessions': a label"),
        ('"members"', '"inputs"', ":8: step 'inputs': a label"),
        ('"members"', '"late_days"', ":8: step 'late_days': a label"),
        ('"members"', '"The members"', ":8: step 'The members': a label"),
        ("we_mart.wv_comm_user", "we_mart.wv_com_user", ":8: there is no table 'we_mart.wv_com_user': did you mean"),
        ("we_mart.wv_comm_user", "we_mart.we_user", ":8: we_mart.we_user is a source: nothing builds it"),
        ("we_mart.wv_comm_user", "we_mart.wv_sess_daily", ":9: we_mart.wv_sess_daily is listed twice"),
    ],
)
def test_a_wrong_task_list_is_one_line_with_file_line_and_cure(family, old, new, error):
    assert old in GOOD
    path = family / "good.py"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ContractError) as raised:
        task_lists.read(path)
    assert str(raised.value).startswith(f"{settings.shown(path)}{error}")
    assert "\n" not in str(raised.value)


def test_a_task_list_hides_none_of_our_own_dags(bag, family):
    lists = {path.stem for path in TASK_LISTS}
    files = {dag_id: f"dags/{Path(dag.fileloc).name}" for dag_id, dag in bag.dags.items() if dag_id not in lists}
    assert files == task_lists.OTHER_DAGS
    for dag_id, file in task_lists.OTHER_DAGS.items():
        path = family / f"{dag_id}.py"
        path.write_text(GOOD.replace('"good"', f'"{dag_id}"'))
        with pytest.raises(ContractError, match=rf":2: dag_id '{dag_id}' is that of {file}: name file and list other"):
            task_lists.read(path)


def test_a_broken_task_list_is_an_import_error_and_hides_no_other(family, tmp_path):
    (family / "good.py").write_text(GOOD)
    (family / "bad.py").write_text(GOOD.replace('"good"', '"bad"').replace("daily", "hourly"))
    (family / "worse.py").write_text("import os")
    file = tmp_path / "dags" / "fam.py"
    file.write_text((DAGS / "wev.py").read_text().replace("wev", "fam"))
    bag = DagBag(file)
    assert list(bag.dags) == ["good"]
    (message,) = bag.import_errors.values()
    assert "bad.py:4: schedule 'hourly' is unknown" in message
    assert "worse.py:1: say in a docstring" in message
    assert "Traceback" not in message


def test_what_is_no_task_list_is_none(family, tmp_path):
    (family / "good.py").write_text(GOOD)
    (family / "__init__.py").touch()
    (family / "._good.py").write_bytes(b"\x00\x05\x16\x07")
    (family / ".#good.py").symlink_to("me@laptop.4711:1784")
    assert task_lists.paths("fam") == [family / "good.py"]
    (family / "folder.py").mkdir()
    (family / "no text.py").write_bytes(b"\xff")
    (family / "Upper.py").write_text(GOOD.replace('"good"', '"Upper"'))
    twin = tmp_path / "dags" / "utils" / "dynamic_dag" / "other" / "task_list" / "twin.py"
    twin.parent.mkdir(parents=True)
    for path in (twin, family / "twin.py"):
        path.write_text(GOOD.replace('"good"', '"twin"'))
    dags = factory.dags_of("fam")
    assert list(dags) == ["good", "broken"]
    shown = settings.shown(family)
    starts = ("Upper.py:2: dag_id 'Upper'", "folder.py: cannot be read", "no text.py:1: is not UTF-8", "twin.py:2: ")
    problems = dags["broken"].problems
    assert len(problems) == len(starts)
    assert all(text.startswith(f"{shown}/{start}") for text, start in zip(problems, starts, strict=True))


def test_a_wrong_contract_breaks_the_dags_that_need_it_and_no_other(project):
    """Read by nobody: an error of the backfill DAG alone, which keeps all tables. Read by one list: that list goes."""
    contract = (settings.SQL / "we_mart/wv1_join_info.yaml").read_text()
    project({"we_mart/unread.yaml": "about: x", "we_mart/wv1_join_info.yaml": f"{contract}key: 5\n"})
    bag = DagBag(DAGS)
    # Both lists of wev build what is made of wv1_join_info.
    assert set(bag.dags) == {"audio_streaming_dwh_daily", "backfill", "lake_maintenance", "rudder_sessionization_daily"}
    others = ("audio_", "rudder.")
    tasks = {task.task_id for task in bag.dags["backfill"].tasks if not task.task_id.startswith(others)}
    assert tasks == {"plan", "summary", "we_mart.wv_server_log_base"}
    messages = {name.rpartition("/")[2]: text for name, text in bag.import_errors.items()}
    broken = f"{settings.SQL}/we_mart/wv1_join_info.yaml:{len(contract.splitlines()) + 1}: `key`: 5 is wrong"
    assert broken in messages["wev.py"] and "unread" not in messages["wev.py"]
    assert (
        broken in messages["backfill.py"] and "we_mart/unread.yaml:1: `columns` is missing" in messages["backfill.py"]
    )
    assert messages["wev.py"].count(broken) == 1 and "Traceback" not in str(messages)
    (settings.SQL / "we_mart/wv1_join_info.yaml").write_text(contract)
    project({})
    bag = DagBag(DAGS)
    assert set(bag.dags) == {"backfill", "lake_maintenance", *(path.stem for path in TASK_LISTS)}
    assert [name.rpartition("/")[2] for name in bag.import_errors] == ["backfill.py"]


def test_a_dag_that_cannot_be_finished_leaves_no_half_behind(family, tmp_path, monkeypatch):
    (family / "good.py").write_text(GOOD)

    def broken(contract):
        raise ContractError("include/sql/x.sql:3: does not parse")

    monkeypatch.setattr(factory, "table_docs", broken)
    file = tmp_path / "fam.py"
    file.write_text((DAGS / "wev.py").read_text().replace("wev", "fam"))
    bag = DagBag(file)
    assert not bag.dags
    assert "include/sql/x.sql:3: does not parse" in str(bag.import_errors)


def context(bag, partition_key=None, conf=None) -> dict:
    dag = bag.dags["analytics_we_mart_wv1_daily"]
    run = SimpleNamespace(dag_id=dag.dag_id, run_id="manual__1", partition_key=partition_key, conf=conf)
    return {"dag": dag, "dag_run": run}


def asked_for(**given) -> str:
    """What a sensor takes for the day of a run: Airflow renders it where the trigger starts."""
    from jinja2 import Template

    return Template(DAY).render(dag_run=SimpleNamespace(**{"partition_key": None, "conf": None} | given))


def test_the_day_of_a_run_is_its_key_else_its_conf():
    assert asked_for(partition_key="2026-01-05") == "2026-01-05"
    assert asked_for(conf={"part_date": "2026-01-05"}) == "2026-01-05"
    assert asked_for(partition_key="2026-01-05", conf={"part_date": "2026-01-06"}) == "2026-01-05"
    assert asked_for() == asked_for(conf={}) == asked_for(conf={"day": "2026-01-05"}) == ""


WRONG_DAYS = [
    (None, None, "this run has no day: give it one as its partition key"),
    (None, {}, "this run has no day"),
    (None, {"day": "2026-01-05"}, "this run has no day"),
    (None, {"part_date": "2026-01-05' or '1'='1"}, "is not a day"),
    (None, {"part_date": ["2026-01-05"]}, "is not a day"),
    ("2026-1-5", None, "'2026-1-5' is not a day"),
    ("2999-01-01", None, "2999-01-01 is not over in Asia/Seoul: the newest day that can be built is 20"),
]


@pytest.mark.parametrize(("key", "conf", "error"), WRONG_DAYS)
def test_a_run_without_a_usable_partition_fails_at_once_in_one_line(bag, builds, key, conf, error):
    task = bag.dags["analytics_we_mart_wv1_daily"].get_task("we_mart.wv_server_log_base")
    with pytest.raises(AirflowFailException) as raised:
        task.execute(context(bag, key, conf))
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)
    assert builds.asked == []
    with pytest.raises(UsageError, match=error[:20]):
        usable_partition(asked_for(partition_key=key, conf=conf), "Asia/Seoul", "day")


@pytest.fixture
def builds(monkeypatch):
    """Stands in for the runner, which would want Spark: what was asked for, and what it answers."""
    asked: list[dict] = []
    answer = SimpleNamespace(
        state="built", days=["2026-01-05"], rows=12, seconds=3.21, dropped={"no device": 2}, note="as asked"
    )

    def fake_build(table, start, end, run, log):
        asked.append({"table": table, "start": start, "end": end, "run": run})
        if isinstance(answer.note, BaseException):
            raise answer.note
        return answer

    import include.lake.build

    monkeypatch.setitem(sys.modules, "include.lake.build.runner", SimpleNamespace(build=fake_build))
    monkeypatch.setattr(include.lake.build, "runner", sys.modules["include.lake.build.runner"], raising=False)
    return SimpleNamespace(asked=asked, answer=answer)


def test_the_build_task_builds_the_day_and_says_what_it_did(bag, builds):
    task = bag.dags["analytics_we_mart_wv1_daily"].get_task("we_mart.wv_server_log_base")
    assert task.execute(context(bag, "2026-01-05")) == {
        "table": "we_mart.wv_server_log_base",
        "day": "2026-01-05",
        "state": "built",
        "rows": 12,
        "seconds": 3.2,
        "dropped": {"no device": 2},
        "note": "as asked",
    }
    run = "analytics_we_mart_wv1_daily/manual__1"
    asked = {"table": "we_mart.wv_server_log_base", "start": "2026-01-05", "end": "2026-01-05", "run": run}
    assert builds.asked == [asked]


def test_days_that_late_data_made_stale_are_built_again(bag, builds, lake_home, tmp_path):
    from include.lake.build.load import load

    table, source = "we_mart.wv_server_log_base", "service_log.weverse_server_log"
    file = tmp_path / "log.jsonl"
    days = [f"2026-01-0{n}" for n in range(1, 6)]

    def arrive(*of: str) -> None:
        file.write_text("".join(f'{{"date_id": "{day}"}}\n' for day in of))
        load(source, [str(file)])

    arrive(*days)
    pretend_build(table, [day for day in days if day != "2026-01-03"])
    arrive("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
    task = bag.dags["analytics_we_mart_wv1_daily"].get_task("late_days")
    # Those of the three days before its own that were built; not the one that never was, nor older ones.
    assert task.execute(context(bag, "2026-01-05")) == {table: ["2026-01-02", "2026-01-04"]}
    assert [asked["start"] for asked in builds.asked] == ["2026-01-02", "2026-01-04"]


@pytest.mark.parametrize(
    ("error", "kind", "retried"),
    [
        (CheckFailed("2 rows break `sess_cnt > 0`", {"sess_cnt > 0": 2}), "data", False),
        (ContractError("a.sql:1: wrong"), "code", False),
        (InputsMissing("x of 2026-01-05"), "data", False),
        (WriteConflict("others came first"), "conflict", True),
        (OSError("storage is away"), "infrastructure", True),
        (AirflowTaskTimeout("Timeout, PID: 1"), "infrastructure", True),
        (TypeError("a bug of ours"), "code", False),
    ],
)
def test_only_what_a_retry_can_cure_is_retried(bag, builds, error, kind, retried):
    builds.answer.note = error
    table = "we_mart.wv_server_log_base"
    with pytest.raises(AirflowException) as raised:
        bag.dags["analytics_we_mart_wv1_daily"].get_task(table).execute(context(bag, "2026-01-05"))
    assert isinstance(raised.value, AirflowFailException) is not retried
    first, *cause, last = str(raised.value).splitlines()
    assert first.startswith(f"{table} 2026-01-05 failed ({kind} error; ")
    assert 1 <= len(cause) <= 20
    told = "within 2 h (execution_timeout)" if isinstance(error, AirflowTaskTimeout) else str(error)
    assert told in cause[-1]
    assert last == f"see it again: ./lake build {table} --from 2026-01-05 --to 2026-01-05"


def test_constants_fit_together():
    assert tasks.LOOK_SECONDS < tasks.POLL_SECONDS  # else a sensor could be shown its own last look again
    assert tasks.GRACE.total_seconds() > tasks.FAILED_LOOKS * tasks.POLL_SECONDS


def test_a_weekly_list_runs_by_weeks_and_lists_only_tables_of_weeks(family, project):
    text = (
        '"""Weeks."""\ndag_id = "weeks"\nowner = "me"\nschedule = "weekly"\ntimezone = "Asia/Seoul"\n'
        "look_back_days = 7\n"
        'dag_task_list = [{"step": "all", "list": ["shop.weekly"]}]\n'
    )
    column = "{name: part_week, type: string}"
    files = {
        "shop/weekly.yaml": f"about: Weeks.\nkey: []\npartitioned_by: [part_week]\n"
        f"columns: [{{name: calls, type: bigint}}, {column}]\n",
        "shop/weekly.sql": """\
select count(*) as calls, date_format(date_trunc('week', to_date(log.date_id)), 'yyyy-MM-dd') as part_week
from service_log.weverse_server_log as log
where log.date_id between :start_date and :end_date
group by all
""",
    }
    project(files)
    path = family / "weeks.py"
    path.write_text(text)
    dag = factory.make(task_lists.read(path), "wev")
    assert dag.timetable.serialize() == {"timezone": "Asia/Seoul", "grain": "week"}
    assert {task.task_id for task in dag.tasks} == {"inputs.service_log.weverse_server_log", "shop.weekly", "late_days"}
    path.write_text(text.replace("weekly", "daily", 1).replace('"daily"]', '"weekly"]'))
    with pytest.raises(ContractError, match=r"weeks.py:7: a partition of shop.weekly is a week, a run of this list is"):
        task_lists.read(path)
