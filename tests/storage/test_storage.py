"""The port to the tables: it stays small, nobody goes past it, and the tables may be anywhere."""

import inspect
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import Schema, convert_to_deltalake

from include.lake import settings
from include.lake.cli import main as cli
from include.lake.engine import Engine, engine
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts
from include.lake.project.days import day_range
from include.lake.state import ledger
from include.lake.state.look import Look
from include.lake.storage import Store, delta_files, delta_folder, delta_upkeep, store
from scripts.check_imports import imports, problem
from tests.pretend import BUILT, SOURCE, build, load, select

EVENT, TOTAL = "shop.event", "shop.total"
DAYS = day_range("2026-01-01", "2026-01-04")
FILES = {"shop/event.yaml": SOURCE, "shop/total.yaml": BUILT, "shop/total.sql": select(EVENT)}


def functions(port: type) -> list[str]:
    return [name for name, value in vars(port).items() if inspect.isfunction(value) and not name.startswith("_")]


def test_the_ports_stay_small() -> None:
    assert 0 < len(functions(Store)) <= 9 and 0 < len(functions(Engine)) <= 9
    for port, side in ((Store, store()), (Engine, engine())):
        assert [name for name in functions(port) if not callable(getattr(side, name, None))] == []


def test_nobody_goes_past_the_ports() -> None:
    files = sorted((settings.ROOT / "include").rglob("*.py"))
    users = {
        str(path.relative_to(settings.ROOT))
        for path in files
        for _, module in imports(path)
        if module.split(".")[0] == "deltalake"
    }
    sides = (delta_files, delta_folder, delta_upkeep)
    assert users == {f"include/lake/storage/{Path(side.__file__).name}" for side in sides}
    assert problem("include/lake/state/look.py", "deltalake.DeltaTable") == "deltalake is for storage alone"
    assert problem("include/lake/state/look.py", "pyspark.sql") == "pyspark is for engine and build alone"
    assert problem("include/lake/storage/delta_files.py", "deltalake.DeltaTable") == ""
    named = [path for path in files if "DeltaTable" in path.read_text() and path.parent.name != "storage"]
    assert named == []


def test_a_table_is_opened_once_as_long_as_nobody_changes_it(project, lake_home: Path, tmp_path: Path) -> None:
    project(FILES)
    load(EVENT, DAYS[0])
    first = store().open(EVENT)
    assert first and store().open(EVENT) is first
    load(EVENT, DAYS[1])
    second = store().open(EVENT)
    assert second and (second.version, second.table_id) == (first.version + 1, first.table_id)
    assert sorted(store().rows(first)["day"].to_pylist()) == [DAYS[0]], "an older version stays what it is"
    # Moved away and made again: another table, perhaps at the same version.
    Path(second.address).rename(tmp_path / "away")
    assert store().open(EVENT) is None
    load(EVENT, DAYS[0])
    load(EVENT, DAYS[1])
    third = store().open(EVENT)
    assert third and third.version == second.version and third.table_id != second.table_id


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "file:///{}/", "file:{}"])
@pytest.mark.parametrize("name", ["warehouse", "a warehouse", "창고"])
def test_tables_are_in_the_folder_that_lake_warehouse_names(
    project, lake_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, name: str
) -> None:
    folder = tmp_path / "elsewhere" / name
    monkeypatch.setenv("LAKE_WAREHOUSE", form.format(folder))
    project(FILES)
    load(EVENT, *DAYS)
    build(TOTAL, DAYS)
    assert [Look().state(TOTAL, day).state for day in DAYS] == ["fresh"] * len(DAYS)
    load(EVENT, DAYS[1])
    assert [Look().state(TOTAL, day).state for day in DAYS] == ["fresh", "stale", "fresh", "fresh"]
    assert sorted(path.name for path in folder.iterdir()) == ["ops", "shop"]
    assert not (lake_home / "warehouse").exists()
    ledger.rebuild()
    assert [row["partition"] for row in ledger.read([TOTAL]) if row["status"] == ledger.BUILT] == DAYS


def test_a_url_may_spell_letters_of_a_folder_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_WAREHOUSE", (tmp_path / "a warehouse").as_uri())
    assert "%20" in (tmp_path / "a warehouse").as_uri()
    assert settings.warehouse() == str(tmp_path / "a warehouse")


@pytest.mark.parametrize(
    "url", ["s3://bucket/lake", "s3a://bucket/lake/", "gs://bucket", "abfss://c@account/lake", "az://c/d"]
)
def test_the_url_of_an_object_store_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LAKE_WAREHOUSE", url)
    assert settings.warehouse() == url.rstrip("/")
    assert delta_files.address(EVENT) == f"{url.rstrip('/')}/shop/event"


@pytest.mark.parametrize(
    "wrong",
    [
        "memory://", "memory:///lake", "http://host/lake", "S3://bucket", "s3:/bucket", "s3:///lake", "s3://",
        "file://host/lake", "s3://bucket/a b?c", "s3://bucket/a%20b", "/a#b", "file:///a%23b", "file:///a?b",
        "~nobody-of-us/b",
    ],
)  # fmt: skip
def test_a_wrong_lake_warehouse_is_one_line_that_names_the_cure(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    monkeypatch.setenv("LAKE_WAREHOUSE", wrong)
    with pytest.raises(UsageError):
        settings.warehouse()
    assert cli.main(["status"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("lake: LAKE_WAREHOUSE=") and message.count("\n") == 1
    assert re.search("set (LAKE_WAREHOUSE|it) to ", message)
    assert not lake_home.exists(), "nothing may be written"


def test_files_elsewhere_are_read_through_delta_rs(project, lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an object store: without any path of this machine."""
    project(FILES)
    load(EVENT, *DAYS)
    build(TOTAL, DAYS)
    expected = [Look().state(TOTAL, day) for day in DAYS], ledger.read()
    monkeypatch.setattr(delta_files, "_is_here", lambda delta: False)
    assert ([Look().state(TOTAL, day) for day in DAYS], ledger.read()) == expected
    snapshot = store().open(EVENT)
    assert snapshot is not None and store().rows(snapshot).num_rows == len(DAYS)
    assert len(store().commits(snapshot, contracts.get(EVENT))) == snapshot.version + 1


def test_only_the_rows_that_were_asked_for_are_given(project, lake_home: Path) -> None:
    project(FILES)
    load(EVENT, *DAYS)
    snapshot = store().open(EVENT)
    assert snapshot is not None
    assert store().rows(snapshot, {"day": DAYS[1:3]})["day"].to_pylist() == DAYS[1:3]
    assert store().rows(snapshot, {"day": ["2027-01-01"]}).num_rows == 0
    assert store().rows(snapshot, {"amount": [1]}).num_rows == 0, "a column that is no partition"
    assert store().rows(snapshot).schema == store().rows(snapshot, {"day": DAYS}).schema
    assert (store().open(EVENT, 0) or snapshot).version == 0


def test_the_store_refuses_what_it_cannot_move_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LakeError, match="move s3://bucket/a/b away first"):
        delta_files._move_away("a.b", "s3://bucket/a/b")


@pytest.mark.parametrize("by_day", [True, False], ids=["of a day", "all"])
def test_times_that_spark_writes_by_default_are_what_they_were(
    project: Callable[[dict[str, str]], None], lake_home: Path, by_day: bool
) -> None:
    """INT96, which Arrow takes for nanoseconds: then the year 9999 is the year 1816."""
    columns = "[{name: at, type: timestamp}, {name: day, type: string}]"
    contract = f"about: Of others.\npartitioned_by: [day]\ncolumns: {columns}\n"
    project({"shop/till.yaml": contract})
    folder = Path(delta_files.address("shop.till"))
    (folder / "day=2026-01-05").mkdir(parents=True)
    until = datetime(9999, 12, 31, 23, 59, 59, 123456, tzinfo=UTC)
    file = folder / "day=2026-01-05" / "a.parquet"
    pq.write_table(pa.table({"at": pa.array([until, None])}), file, use_deprecated_int96_timestamps=True)
    convert_to_deltalake(
        folder, partition_by=Schema.from_arrow(pa.schema([("day", pa.string())])), partition_strategy="hive"
    )
    snapshot = store().open("shop.till")
    assert snapshot is not None
    found = store().rows(snapshot, {"day": ["2026-01-05"]} if by_day else None)
    assert found.column("at").cast(pa.timestamp("us", "UTC")).to_pylist() == [until, None]
