"""What Sail does differently from Spark, and what stands around it."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import SparkRuntimeException

from include.lake import settings
from include.lake.build import cases, failures, runner
from include.lake.engine import engine, sail, sail_main, sail_server, server
from include.lake.errors import CODE, DATA, INFRASTRUCTURE, LakeError, UsageError
from include.lake.local import processes, wait
from include.lake.project import contracts, lineage
from include.lake.state import ledger
from include.lake.state.look import Look
from tests.shop import DAY, NEXT, SELECT, TABLE, build, load
from tests.strangers import answers_who_has_the_token_alone

pytestmark = pytest.mark.engine("sail")


def test_an_engine_that_nobody_knows_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("sial", "sc://", "http://localhost:15002", "sc://host:port", "sc://h; rm -rf /"):
        monkeypatch.setenv("LAKE_ENGINE", wrong)
        with pytest.raises(UsageError, match=r"is no engine: set it to sail, spark, databricks or sc://HOST:PORT"):
            engine()
        with pytest.raises(UsageError, match="is no engine"):  # and no lake is called empty because of it
            Look().newest_day("rudder.tracks")
    monkeypatch.setenv("LAKE_ENGINE", "sail")
    monkeypatch.setenv("LAKE_SPARK_REMOTE", "sc://localhost:15002")
    with pytest.raises(UsageError, match="LAKE_SPARK_REMOTE has another name now: set LAKE_ENGINE instead"):
        engine()


def test_an_error_has_the_class_of_its_cause(spark: Any) -> None:
    def kind(sql: str) -> str | None:
        with pytest.raises(Exception) as raised, sail.materialise(spark.sql(sql)):
            pass
        return sail.kind(raised.value)

    for of_rows in (
        "select 1 div x as y from values (0) as t(x)",
        "select cast(x as int) as y from values ('x') as t(x)",
        "select cast(x as date) as y from values ('x') as t(x)",
        "select raise_error(x) as y from values ('bad') as t(x)",
        "select cast(x as decimal(5, 0)) as y from values (99999999) as t(x)",
        "select regexp_replace('a', x, 'b') as y from values ('(') as t(x)",
        "select string(unhex(x)) as y from values ('ff') as t(x)",
        "select lpad('a', int(-1 - id), 'x') as y from range(3)",
    ):
        assert kind(of_rows) == DATA, of_rows
    for of_the_text in ("selec 1", "select nothing", "select 1 from nowhere", "select no_such_function(1)"):
        assert kind(of_the_text) == CODE, of_the_text


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("cast(x as int) > 0", "Cast error: Cannot cast string '('"),
        ("regexp_replace(x, x, 'b') = x", "unclosed group"),
        ("x rlike x", "error: unclosed group\n"), ("to_timestamp(x) is null", "invalid timestamp: ("),
        ("5 % (length(x) - 1) = 0", "Remainder by zero"),
    ],
)  # fmt: skip
def test_an_error_in_a_filter_over_files_tells_its_reason(
    spark: Any, lake_home: Path, condition: str, reason: str
) -> None:
    rows = spark.sql("select * from values ('(') as t(x)")
    with sail.materialise(rows) as stage, pytest.raises(SparkRuntimeException) as error:
        sail.collect(stage.frame.where(condition))
    told = str(error.value)
    assert reason in told and "filter predicate" not in told
    assert told.endswith(" SQLSTATE: 22000") and sail.kind(error.value) == DATA


def test_rows_are_computed_once_and_nothing_of_them_stays(spark: Any, lake_home: Path) -> None:
    with sail.materialise(spark.sql("select uuid() as id from range(3)")) as computed:
        first, second = (sorted(row[0] for row in computed.frame.collect()) for _ in range(2))
        assert first == second and len(set(first)) == 3
        assert len(list((lake_home / "engine" / "stage").glob("*/*"))) == 1
    assert not list((lake_home / "engine" / "stage").glob("*/*"))


def test_the_stage_of_a_killed_build_goes_with_the_next_one(spark: Any, lake_home: Path) -> None:
    stage = server.folder_of_this_process("stage").parent
    here = server.folder_of_this_process("stage").suffix
    # The pid of the second one is used again, by this process.
    left = [stage / f"{name}{here}" / "rows" for name in (killed_process(), f"{os.getpid()}-000000000000")]
    stay = [stage / f"{processes.name(pid)}{here}" / "rows" for pid in (os.getpid(), os.getppid())]
    # A process of another container looks dead from here, and may live.
    stay.append(stage / f"{killed_process()}.1" / "rows")
    for folder in (*left, *stay):
        folder.mkdir(parents=True)
    with sail.materialise(spark.sql("select 1 as x")):
        assert not any(folder.exists() for folder in left)
        assert all(folder.exists() for folder in stay)


@pytest.mark.parametrize("home", ["plain", "a lake"])
def test_the_links_of_a_killed_process_go_with_the_next_one(
    lake_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("LAKE_HOME", str(tmp_path / home))
    shared = tmp_path / "tmp"
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    place, prefix = (shared, "lake-links-") if " " in home else (tmp_path / home / "engine" / "links", "")
    table = tmp_path / "창고"
    table.mkdir()
    left = place / f"{prefix}{killed_process()}{'.x' if prefix else server.folder_of_this_process('links').suffix}"
    left.mkdir(parents=True)
    (left / "link").symlink_to(table)
    sail._links.cache_clear()
    try:
        link = Path(sail._plain(f"{table}/day"))
        assert link.parent.resolve() == table and link.is_relative_to(place)
        assert not left.exists() and table.exists()
    finally:
        sail._links.cache_clear()


def killed_process() -> str:
    """The name for files of a process that is dead."""
    program = "import os; from include.lake.local import processes; print(processes.name(os.getpid()))"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=settings.ROOT, capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


def views_of_text(frame: Any) -> list[str]:
    """The steps of Sail's plan that give text as a view of a buffer that other rows share."""
    plan = io.StringIO()
    with contextlib.redirect_stdout(plan):
        frame.explain("formatted")  # with the types of each step
    return [line.strip()[:100] for line in plan.getvalue().splitlines() if ":Utf8View" in line]


@pytest.mark.spark
def test_no_select_carries_views_of_text(spark: Any) -> None:
    """Sail counts the buffer of a view for each batch that it sorts or joins: a million rows would not fit into 8 GB.

    Of the functions that Sail 0.7 knows, md5, left, right and substring_index give views. A cast to string ends it.
    """
    names = "select md5(string(id)) as name from range(9)"
    numbered = f"select name, row_number() over (order by name) as place from ({names})"
    assert views_of_text(spark.sql(f"select *, count(*) over (order by name) as until from ({numbered})"))

    found = {}
    for table in (name for name in lineage.in_order() if contracts.get(name).is_built):
        case = max(map(cases.read, cases.paths([table])), key=lambda case: sum(map(len, case.inputs.values())))
        for name in lineage.inputs(table):
            cases.register(spark, name, case.inputs.get(name) or [{}])  # of an input without rows Sail plans nothing
        found[table] = views_of_text(runner.compute(spark, table, case.start, case.end))
    assert found
    assert {table: steps for table, steps in found.items() if steps} == {}


def test_an_empty_day_over_an_empty_day_has_its_row_in_the_ledger(shop: Any, spark: Any) -> None:
    load(("a", 1, NEXT), ("nobody", 1, DAY))  # a day whose only row is dropped
    assert build(spark).rows == 0
    assert build(spark, force=True).rows == 0
    rows = [row for row in ledger.read([TABLE]) if row["partition"] == DAY]
    assert [(row["status"], row["rows"], row["engine"]) for row in rows] == [("built", 0, "sail")] * 2
    before, after = ledger.rebuild()
    assert before == after and [row for row in ledger.read([TABLE]) if row["partition"] == DAY] == rows


@pytest.mark.parametrize("name", ["a lake", "창고", "a&b'c"])
def test_tables_are_in_folders_of_any_name(
    shop: Any, spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LAKE_HOME", str(tmp_path / name))
    load(("a", 1, DAY))
    assert build(spark).rows == 1


@pytest.fixture
def server_home(lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LAKE_ENGINE", "sail")
    yield lake_home
    server.stop(patience=0)


def test_the_server_asks_for_the_token_and_nobody_gets_past_the_gate(server_home: Path) -> None:
    import psutil

    address = engine().start()
    token = settings.engine_token_file().read_text().strip()
    assert answers_who_has_the_token_alone(address, token, "spark.sql.session.timeZone")
    state = server._state()
    assert state is not None
    family = [psutil.Process(state["pid"]), *psutil.Process(state["pid"]).children(recursive=True)]
    assert len(family) == 2, "the gate and Sail"
    listening = [c.laddr for process in family for c in process.net_connections("tcp") if c.status == "LISTEN"]
    assert [(place.ip.removeprefix("::ffff:"), place.port) for place in listening] == [("127.0.0.1", state["port"])], (
        "Sail's own port is open"
    )
    seen = subprocess.run(["ps", "-axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert "sail_main.py" in seen and token not in seen
    # Whoever kills the gate ends Sail, too.
    os.kill(state["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(processes.identity(process.pid) for process in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(processes.identity(process.pid) for process in family)
    assert engine().address() is None


def test_who_accepts_at_the_closed_port_waits_and_gets_no_error() -> None:
    """Sail accepts once more while its port closes, now and then. After an error it would ask again without end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        sail_main._close_port(port)
        assert not server.listens(port)
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                listening.accept()


def test_a_server_of_the_other_engine_is_not_mistaken(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine().start()
    monkeypatch.setenv("LAKE_ENGINE", "spark")
    assert engine().address() is None
    with pytest.raises(LakeError, match=r"a server of sail runs here: `\./lake engine stop` ends it"):
        engine().start()


def test_memory_that_runs_out_is_one_line_and_nothing_is_published(
    shop: Any, lake_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_ENGINE_MEMORY", "1m")
    many = SELECT.replace("from shop.event as event", "from shop.event as event\ncross join range(3000000)")
    shop({"shop/total.sql": many.replace("sum(event.amount)", "cast(size(collect_list(id)) as bigint)")})
    load(("a", 1, DAY))
    engine().start()
    try:
        message = r"^1m of memory are too little \(.*\): give LAKE_ENGINE_MEMORY more, or build fewer days$"
        with pytest.raises(Exception, match=message) as raised:
            build(None)
    finally:
        server.stop(patience=0)
    assert sail.kind(raised.value) == INFRASTRUCTURE
    assert "else give LAKE_ENGINE_MEMORY more" in failures.explain(raised.value, TABLE, DAY, DAY).text
    assert [row["status"] for row in ledger.read([TABLE])] == ["failed"]
    assert not list((lake_home / "engine" / "stage").glob("*/*"))


# The command line over the SELECTs of a folder.
COMMAND_LINE = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
from include.lake import settings
settings.SQL = Path(sys.argv[1])
from include.lake.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("ends", ["Ctrl-C", "Ctrl-C beside a server", "death of Sail"])
def test_a_build_in_the_terminal_ends_at_once(shop: Any, server_home: Path, lake_home: Path, ends: str) -> None:
    """A Sail that computes on all cores answers nobody, and neither does a dead one: no call waits for it."""
    import psutil

    shop({"shop/total.sql": SELECT.replace("from shop.event as event", "from shop.event as event\n"
                                           "cross join range(1000000) cross join range(1000000)")})  # fmt: skip
    load(("a", 1, DAY))
    if "server" in ends:
        engine().start()
    state = server._state()
    command = [sys.executable, "-c", COMMAND_LINE, str(settings.SQL), "build", TABLE, "--from", DAY, "--to", DAY]
    terminal = subprocess.Popen(
        command, cwd=settings.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        wait.until(lambda: any((lake_home / "engine" / "stage").glob("*")), 60, "the computation")
        time.sleep(1)
        family = psutil.Process(terminal.pid).children(recursive=True)
        computing = [one for one in family if one.cmdline()[-1] == "sail"]
        assert len(computing) == (0 if state else 1)
        began = time.monotonic()
        if "Ctrl-C" in ends:
            os.killpg(terminal.pid, signal.SIGINT)
        else:
            computing[0].kill()
        _, told = terminal.communicate(timeout=60)
    finally:
        terminal.kill()
    assert time.monotonic() - began < 20, told
    lines = [line for line in told.splitlines() if not line.startswith("…")]
    if "Ctrl-C" in ends:
        assert terminal.returncode == 130
        assert lines == ["lake: stopped; what was committed stays, the rest is as it was"]
        assert not ledger.read([TABLE])
    else:
        assert terminal.returncode == 1
        assert lines[1].startswith("the engine has died, or somebody has stopped it"), told
        assert len(lines) == 3, told
    assert not [one for one in psutil.wait_procs(family, timeout=10)[1] if one.is_running()]


def test_a_day_stays_what_it_is_where_no_engine_can_be_had(
    shop: Any, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong setting, or a server that is not there, says nothing about a day."""
    load(("a", 1, DAY))
    build(spark)
    monkeypatch.setattr(sail, "_own", {})
    for name, wrong in {"LAKE_ENGINE_MEMORY": "much", "LAKE_ENGINE": "sc://localhost:1"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, wrong)
            with pytest.raises(LakeError):
                build(None, force=True)
    assert [row["status"] for row in ledger.read([TABLE])] == ["built"]


def test_a_port_that_is_taken_meanwhile_is_told(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(server, "free_port", lambda: taken.getsockname()[1])
        monkeypatch.setattr(server, "listens", lambda port: False)
        with pytest.raises(LakeError, match=r"Sail ended at its start; the end of .*server.log"):
            engine().start()


def test_a_session_may_be_idle_for_a_week(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sail takes the setting: where it is a second, the session is gone, which a retry cures."""
    assert sail_server.SESSION_SECONDS > 6 * 86_400
    monkeypatch.setenv("LAKE_HOME", str(tmp_path))
    monkeypatch.setattr(sail, "_own", {})
    monkeypatch.setattr(sail_server, "SESSION_SECONDS", 1)
    with sail.opened() as session:
        assert session.range(3).count() == 3
        wait.until(lambda: _error(session), 30, "the end of the session", pause=2)
        assert sail.kind(_error(session)) == INFRASTRUCTURE
    ((own, *_),) = sail._own.values()
    own.kill()


def _error(session: Any) -> Exception | None:
    try:
        session.range(3).count()
    except Exception as error:
        return error
    return None
