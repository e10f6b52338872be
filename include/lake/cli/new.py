"""`./lake new`: writes stubs that build and pass their test, for the user to edit."""

import ast
import difflib
import re
from contextlib import suppress
from pathlib import Path

from include.lake import settings
from include.lake.errors import UsageError
from include.lake.project import contracts, task_lists

_SELECT = """\
select
    cast(sess.part_date as date) as key_date,
    sess.platform,
    count(distinct sess.sess_id) as sess_cnt,
    sess.part_date
from we_mart.wv_sess_daily as sess
where sess.part_date between :start_date and :end_date
group by sess.part_date, sess.platform
"""
_CONTRACT = """\
about: Say what one row of the table is, and every choice that an analyst should know.
key: [key_date, platform]
partitioned_by: [part_date]
columns:
  - {name: key_date, type: date, comment: day in TIMEZONE}
  - {name: platform, type: string, nullable: true}
  - {name: sess_cnt, type: bigint}
  - {name: part_date, type: string}
  - {name: run_timestamp, type: timestamp, comment: UTC start of the build}
checks:
  - sess_cnt > 0
"""
_CASE = """\
about: A session is counted once, however many communities it visited.
start: 2026-01-05
inputs:
  we_mart.wv_sess_daily:
    - {part_date: 2026-01-05, sess_id: s1, platform: APP, comm_id: "14"}
    - {part_date: 2026-01-05, sess_id: s1, platform: APP, comm_id: "15"}
expect:
  - {key_date: 2026-01-05, platform: APP, sess_cnt: 1}
"""


def new(table: str, dag: str) -> list[str]:
    """Write SELECT, contract and case of `table`, and its line in the task list of `dag`; gives a line per file.

    UsageError if the name is wrong, the table exists, or no task list of days has that name; ContractError if the list
    is wrong, as it is or with the new line. Then nothing is written.
    """
    if not contracts.is_table_name(table):
        raise UsageError(f"{table!r} is not a table name: write schema.table with a-z, 0-9 and _")
    if table == contracts.LEDGER:
        raise UsageError(f"{table} is the ledger of the builds: name the table otherwise")
    schema, name = table.split(".")
    files = {
        settings.SQL / schema / f"{name}.sql": _SELECT,
        settings.SQL / schema / f"{name}.yaml": _CONTRACT,
        settings.ROOT / "tests" / "cases" / schema / name / "counted_once.yaml": _CASE,
    }
    for path in files:
        if path.exists():
            raise UsageError(f"{settings.shown(path)} is there already")
    lists = {path.stem: path for path in task_lists.paths()}
    if dag not in lists:
        near = difflib.get_close_matches(dag, lists, n=1) or sorted(lists)
        raise UsageError(f"there is no task list {dag!r}; there is {', '.join(near)}")
    list_text = _with_step(contracts.read_text(lists[dag]), lists[dag], table)
    twins = [path for path in task_lists.paths() if path.stem == dag and path != lists[dag]]
    task_list, _ = task_lists.parse(list_text, lists[dag], twins)
    if task_list.grain != "day":
        raise UsageError(
            f"{settings.shown(lists[dag])} runs by {task_list.grain}s, and the stubs are of a table of days: "
            "name a daily DAG"
        )
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("TIMEZONE", task_list.timezone), encoding="utf-8")
    lists[dag].write_text(list_text, encoding="utf-8")
    written = [f"wrote {settings.shown(path)}" for path in files]
    return [*written, f"added a line to {settings.shown(lists[dag])}", f"Edit them, then: ./lake test {table}"]


def _with_step(text: str, path: Path, table: str) -> str:
    """The text of a task list with one more step, a line of its own at the end. ContractError if there is no list."""
    with suppress(SyntaxError, ValueError):
        for node in ast.parse(text).body:
            if (
                isinstance(node, ast.Assign)
                and getattr(node.targets[0], "id", "") == "dag_task_list"
                and isinstance(node.value, ast.List)
            ):
                return _with_line(text, node.value, table)
    task_lists.parse(text, path, [])  # says what is wrong
    raise AssertionError(f"{path} has a dag_task_list that was not found")


def _with_line(text: str, steps: ast.List, table: str) -> str:
    content = text.encode()  # the parser counts bytes
    lines = content.split(b"\n")

    def position(line: int | None, column: int | None) -> int:
        assert line is not None and column is not None
        return sum(len(before) + 1 for before in lines[: line - 1]) + column

    end = position(steps.end_lineno, steps.end_col_offset) - 1  # of the bracket that closes the list
    last = steps.elts[-1] if steps.elts else None
    begin = position(last.end_lineno, last.end_col_offset) if last else position(steps.lineno, steps.col_offset) + 1
    rest = content[begin:end].rstrip(b" \t")
    comma = b"," if last and b"," not in re.sub(rb"#[^\n]*", b"", rest) else b""
    newline = b"" if rest.endswith(b"\n") else b"\n"
    labels = {value.value for value in ast.walk(steps) if isinstance(value, ast.Constant)} | {
        task_lists.INPUTS,
        task_lists.LATE_DAYS,
    }
    name = table.partition(".")[2]
    label = table.replace(".", "_") if name in labels else name
    line = f'    {{"step": "{label}", "list": ["{table}"]}},\n'.encode()
    return (content[:begin] + comma + rest + newline + line + content[end:]).decode()
