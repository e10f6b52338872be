"""Every table's cases hold: hand-made rows with the expected rows beside them (`include/lake/build/cases.py`)."""

from pathlib import Path
from typing import Any

import pytest

from include.lake import settings
from include.lake.build import cases
from include.lake.cli import main as cli
from include.lake.errors import UsageError
from include.lake.project import contracts
from include.lake.project.current import held
from tests.conftest import ENGINES

PATHS = cases.paths()
TABLE, DAY = "shop.total", "2026-01-05"
FILES = {
    "shop/event.yaml": """\
about: A source.
partitioned_by: [day]
columns: [{name: name, type: string}, {name: amount, type: bigint}, {name: day, type: string}]
""",
    "shop/total.yaml": """\
about: The amount per name and day.
key: [name]
partitioned_by: [day]
columns: [{name: name, type: string}, {name: total, type: bigint}, {name: day, type: string}]
""",
    "shop/total.sql": """\
select event.name, sum(event.amount) as total, event.day
from shop.event as event
where event.day between :start_date and :end_date
group by event.name, event.day
""",
}
CASE = """\
about: amounts are added up
start: 2026-01-05
inputs:
  shop.event:
    - {name: a, amount: 1, day: 2026-01-05}
    - {name: a, amount: 2, day: 2026-01-05}
expect:
  - {name: a, total: 3, day: 2026-01-05}
"""


@ENGINES
@pytest.mark.spark
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(cases.folder()).with_suffix("").as_posix())
def test_case(path: Path, spark: Any) -> None:
    with held():  # a case asks some twenty times for the project
        case = cases.read(path)
        problems = cases.run(spark, case)
    if problems:
        pytest.fail(f"{case.about}\n\n" + "\n".join(problems), pytrace=False)


def test_every_case_can_be_read() -> None:
    """Without Spark, in seconds: fields, tables, columns and values of every case exist."""
    assert PATHS and [cases.read(path).table for path in PATHS]


def test_every_built_table_has_a_case() -> None:
    built = {name for name, contract in contracts.load_all().items() if contract.is_built}
    assert built, "no table has a SELECT"
    assert not built - set(map(cases.table_of, PATHS)), "tables without a case in tests/cases/<schema>/<table>/"


@pytest.fixture
def shop(project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table with a folder for its cases."""
    project(FILES)
    monkeypatch.setattr(cases, "folder", lambda: tmp_path / "cases")
    folder = tmp_path / "cases" / "shop" / "total"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("about:", "abuot:", ":1: unknown field `abuot`"),
        ("start: 2026-01-05", "start: 2026-1-5", "'2026-1-5' is not a day"),
        ("amount: 1", "amount: one", ":5: shop.event.amount: 'one' is not bigint"),
        ("amount: 1", "amuont: 1", ":5: shop.event has no column amuont; it has amount"),
        ("shop.event:", "shop.evnet:", "shop.evnet"),
        ("name: a, amount: 1", "name: a, name: b", ":5: is wrong YAML: `name` is given twice"),
        ("expect:", "expect: {", ":8: is wrong YAML"),
        (CASE, "", "is no case"),
    ],
)
def test_a_wrong_case_is_one_line_with_its_file(shop: Path, old: str, new: str, error: str) -> None:
    path = shop / "sums.yaml"
    path.write_text(CASE.replace(old, new, 1))
    with pytest.raises(UsageError) as raised:
        cases.read(path)
    assert "shop/total/sums.yaml" in str(raised.value) and error in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_case_of_another_ending_is_to_be_renamed(shop: Path) -> None:
    (shop / "sums.yml").write_text(CASE)
    hint = r"\(a case ends in \.yaml: rename sums\.yml\)$"
    with pytest.raises(UsageError, match=f"{TABLE} has no case: write one in .* {hint}"):
        cases.require(TABLE)
    with pytest.raises(UsageError, match=f"{TABLE} has no case sums; it has none {hint}"):
        cases.path(TABLE, "sums")


@pytest.mark.spark
def test_the_command_runs_the_cases_of_a_table(shop: Path, lake_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test", TABLE]) == 2
    assert f"{TABLE} has no case: write one in {settings.shown(shop)}/" in capsys.readouterr().err
    (shop / "sums.yaml").write_text(CASE)
    assert cli.main(["test", TABLE]) == 0
    assert f"ok      {TABLE} sums: amounts are added up" in capsys.readouterr().out
    (shop / "wrong.yaml").write_text(CASE.replace("total: 3", "total: 4"))
    assert cli.main(["test", TABLE]) == 1
    output = capsys.readouterr().out
    assert f"FAILED  {TABLE} wrong: amounts are added up" in output
    assert "    total: expected 4, is 3" in output and "1 of 2 cases failed" in output
    assert not list(lake_home.glob("warehouse/*")), "a case reads and writes no table"
