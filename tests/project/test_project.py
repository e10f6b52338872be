"""The project as one value: it follows its files, a holder keeps it, and an edit costs the files that it touches."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from include.lake import settings
from include.lake.errors import ContractError, UsageError
from include.lake.project import contracts, current, lineage, selects, task_lists
from tests.pretend import BASE, BUILT, TOP, files_of, select

Project = Callable[[dict[str, str]], None]
SHOP = files_of({BASE: ["shop.event"], TOP: [BASE]})


def test_it_is_the_same_value_until_a_file_changes(project: Project) -> None:
    project(SHOP)
    before = current.project()
    assert current.project() is before
    project({"shop/base.yaml": BUILT.replace("A table.", "Another.")})
    assert current.project() is not before
    assert (before.contract(BASE).about, current.project().contract(BASE).about) == ("A table.", "Another.")
    assert before.contract(TOP) is current.project().contract(TOP)


def test_an_added_a_changed_and_a_removed_file_are_seen_at_once(project: Project) -> None:
    project(SHOP)
    for name in ("one", "two"):  # as many bytes, within the same tick of the clock
        for file in (f"shop/{name}.yaml", f"shop/{name}.sql"):
            project({file: BUILT if file.endswith("yaml") else select("shop.event")})
        assert lineage.inputs(f"shop.{name}") == ("shop.event",)
        for above in ("shop.base", "shop.even", "shop.base"):
            project({"shop/even.yaml": SHOP["shop/event.yaml"], f"shop/{name}.sql": select(above)})
            assert lineage.inputs(f"shop.{name}") == (above,)
        (settings.SQL / f"shop/{name}.sql").unlink()
        assert contracts.get(f"shop.{name}").is_source
        (settings.SQL / f"shop/{name}.yaml").unlink()
        with pytest.raises(UsageError, match="there is no table"):
            contracts.get(f"shop.{name}")


def test_a_file_that_another_one_replaces_with_the_same_bytes_and_time_is_seen(project: Project) -> None:
    project(SHOP)
    path = settings.SQL / "shop" / "top.sql"
    os.utime(path, ns=(0, 0))
    assert lineage.inputs(TOP) == (BASE,)
    project({"shop/bass.yaml": SHOP["shop/event.yaml"], "shop/new": select("shop.bass")})
    os.utime(settings.SQL / "shop" / "new", ns=(0, 0))
    (settings.SQL / "shop" / "new").replace(path)
    assert lineage.inputs(TOP) == ("shop.bass",)


def test_an_edit_is_for_those_who_come_after_a_holder(project: Project) -> None:
    project(SHOP)
    with current.held() as held:
        project({"shop/top.sql": select("shop.event"), "shop/base.yaml": "about: 5"})
        assert lineage.inputs(TOP) == (BASE,)
        assert contracts.get(BASE).about == "A table."
        with current.held() as inner:
            assert inner is held
    assert lineage.inputs(TOP) == ("shop.event",)
    with pytest.raises(ContractError, match="`about`"):
        contracts.get(BASE)


def test_an_edit_costs_the_files_that_it_touches(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project(SHOP)
    assert lineage.broken() == {}
    parsed: list[str] = []
    parse, parse_select = contracts.parse, selects.parse_select

    def counted(text: str, path: Path) -> contracts.Contract:
        parsed.append(str(path.relative_to(settings.SQL)))
        return parse(text, path)

    def counted_select(text: str, contract: contracts.Contract) -> lineage.Select:
        parsed.append(contract.table)
        return parse_select(text, contract)

    monkeypatch.setattr(contracts, "parse", counted)
    monkeypatch.setattr(selects, "parse_select", counted_select)
    project({"shop/top.sql": "-- a remark\n" + select(BASE)})
    assert lineage.broken() == {}
    assert parsed == [TOP]
    project({"shop/base.yaml": BUILT.replace("A table.", "A changed table.")})
    assert lineage.broken() == {}
    assert parsed == [TOP, "shop/base.yaml", BASE]


def test_a_task_list_with_a_new_twin_is_wrong_and_good_again_without_it(tmp_path: Path, monkeypatch) -> None:
    text = task_lists.paths("wev")[0].read_text(encoding="utf-8")
    name = task_lists.paths("wev")[0].name
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    paths = [tmp_path / f"dags/utils/dynamic_dag/{family}/task_list/{name}" for family in ("one", "two")]
    for path in paths:
        path.parent.mkdir(parents=True)
    paths[0].write_text(text)
    assert [task_list.dag_id for task_list in task_lists.read_all()] == [paths[0].stem]
    paths[1].write_text(text)
    assert task_lists.read_all() == []
    assert "has the same dag_id" in task_lists.broken()[paths[0].stem]
    paths[1].unlink()
    assert [task_list.dag_id for task_list in task_lists.read_all()] == [paths[0].stem]


LIST = '''"""The shop."""
dag_id = "shop_daily"
owner = "me"
schedule = "daily"
timezone = "UTC"
look_back_days = 0
dag_task_list = [
    {"step": "all", "list": ["shop.base", "shop.top"]},
]
'''


def test_a_listed_table_without_its_select_is_no_source(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    project(SHOP)
    path = tmp_path / "dags/utils/dynamic_dag/shop/task_list/shop_daily.py"
    path.parent.mkdir(parents=True)
    (settings.SQL / "shop/base.sql").unlink()
    assert contracts.get(BASE).is_source and not lineage.broken(), "nobody lists it: a source may have a key"
    path.write_text(LIST)
    message = (
        f"sql/shop/base.yaml:2: {BASE} has a `key` and no SELECT, and {settings.shown(path)}:8 lists it: "
        "write sql/shop/base.sql, or remove it from the list if it is a source"
    )
    for ask in (lambda: contracts.get(BASE), lambda: lineage.inputs(TOP), lambda: task_lists.read(path)):
        with pytest.raises(ContractError) as error:
            ask()
        assert str(error.value) == message
    assert lineage.broken() == {BASE: message, TOP: message}
    project({"shop/base.yaml": SHOP["shop/event.yaml"]})
    assert not lineage.broken(), "without a key it may be a source that somebody lists by mistake"
    cure = r":8: shop\.base is a source: .*; remove it, or write its SELECT, sql/shop/base\.sql$"
    with pytest.raises(ContractError, match=cure):
        task_lists.read(path)
    with pytest.raises(UsageError, match=r"load shop\.base FILE, or write its SELECT, sql/shop/base\.sql$"):
        contracts.require_built(contracts.get(BASE))
    project(SHOP)
    assert task_lists.read(path).tables == [BASE, TOP]


IN_A_NEW_PROCESS = """
import json, sys
from pathlib import Path
from include.lake import settings
settings.SQL = Path(sys.argv[1])
from include.lake.project import contracts, current
with current.held(save=True) as project:
    broken, order = project.broken, project.order
    values = [[repr(project.contract(name)), project.inputs(name), repr(project.contract(name).is_source or
               (project.select(name), project.checks(name)))] for name in order]
print(json.dumps({"sqlglot": "sqlglot" in sys.modules, "values": values, "broken": broken}))
"""


def test_a_new_process_finds_what_was_parsed_and_parses_the_rest(project: Project, lake_home: Path) -> None:
    project({**SHOP, "shop/base.yaml": BUILT + "checks: [amount > 0, warn: count(*) > 0]\n"})

    def look() -> dict:
        program = [sys.executable, "-c", IN_A_NEW_PROCESS, str(settings.SQL)]
        done = subprocess.run(program, cwd=settings.ROOT, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    first = look()
    assert first["sqlglot"] and first["broken"] == {}
    assert look() == {**first, "sqlglot": False}
    project({"shop/top.sql": select("shop.nowhere")})
    for _ in range(2):  # what is wrong is not kept
        assert "reads shop.nowhere, which has no contract" in look()["broken"][TOP]
    for rubbish in ("", "{}", "[]", '{"version": 1, "values": {}}'):
        (lake_home / "parsed.json").write_text(rubbish)
        assert look()["sqlglot"]


def test_constants_of_a_schema_are_written_once(project):
    select = "select sale.day, count_if(sale.kind = :kind and sale.minutes > :longest) as long, ':kind' as text\n" + (
        "from shop.sale as sale where sale.day between :start_date and :end_date group by sale.day\n"
    )
    columns = (
        "partitioned_by: [day]\n"
        "columns: [{name: kind, type: string}, {name: minutes, type: int}, {name: day, type: string}]\n"
    )
    built = "about: x\nkey: []\npartitioned_by: [day]\ncolumns:\n" + "".join(
        f"  - {{name: {name}, type: {kind}}}\n"
        for name, kind in (("long", "bigint"), ("text", "string"), ("day", "string"))
    )
    constants = "kind: visit\nlongest: 30\n"
    files = {"shop/sale.yaml": f"about: x\n{columns}", "shop/long.yaml": built, "shop/long.sql": select}
    project({**files, "shop/_constants.yaml": constants})
    assert not lineage.broken() and "shop._constants" not in contracts.load_all()
    text, before = lineage.select("shop.long").text, lineage.code_id("shop.long")
    assert "sale.kind = 'visit' and sale.minutes > 30" in text
    project({"shop/_constants.yaml": constants.replace("30", "31")})
    assert lineage.code_id("shop.long") != before and "> 31" in lineage.select("shop.long").text
    for wrong, problem in {
        "kind: it's\nlongest: 30\n": ':1: "it\'s" is wrong: a constant is a text without quotes',
        "kind: visit\nlongest: [30]\n": ":2: [30] is wrong",
        "kind: visit\nstart_date: 30\n": ":2: 'start_date' is no name of a constant",
        "- 1\n": ":1: has no constants",
    }.items():
        project({"shop/_constants.yaml": wrong})
        assert f"shop/_constants.yaml{problem}" in lineage.broken()["shop.long"]
    project({"shop/_constants.yaml": "kind: visit\n"})
    assert "unknown parameter :longest" in lineage.broken()["shop.long"]


def test_a_link_to_itself_breaks_itself_alone(project: Project) -> None:
    project(SHOP)
    for name in ("aaa.sql", "aaa.yaml", "mmm.sql", "zzz"):
        (settings.SQL / "shop" / name).symlink_to(name)
    found = current.project()
    assert {"shop.event", BASE, TOP} <= set(found.order)
    assert {table for table in found.broken if table.startswith("shop.")} == {"shop.aaa", "shop.mmm"}
    assert "aaa.yaml: cannot be read: " in found.broken["shop.aaa"]
    assert "mmm.sql: cannot be read: " in found.broken["shop.mmm"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("yaml", BUILT + "checks:\n  - amount > 0\n  - id > 0\n", "base.yaml:7: check `id > 0`: there is no column id"),
        ("yaml", BUILT + "checks: [{warn: id > 0}]\n", "base.yaml:5: check `id > 0`: there is no column id"),
        ("yaml", BUILT + "reads:\n  shop.event: 1\n  shop.top: 1\n", "base.yaml:7: `reads` names shop.top, which"),
        ("sql", "-- A comment.\n" + select("shop.gone"), "base.sql:2: reads shop.gone, which has no contract"),
        ("sql", select("shop.event", "shop.seen"), "base.sql:3: reads shop.seen, which is a view"),
    ],
)
def test_an_error_between_files_names_the_line(project: Project, name: str, text: str, message: str) -> None:
    view = BUILT.replace("partitioned_by: [day]\n", "view: true\n").replace("key: []\n", "")
    project(SHOP | {"shop/seen.yaml": view, "shop/seen.sql": "select e.amount, e.day from shop.event as e\n"})
    project({f"shop/base.{name}": text})
    assert message in current.project().broken[BASE]
