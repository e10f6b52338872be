"""`./lake new`: writes stubs that build and pass their test, for the user to edit."""

import ast
import difflib

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
  - {name: key_date, type: date, comment: KST day}
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

    UsageError if the name is wrong, the table exists, or no task list has that name. Then nothing is written.
    """
    if not contracts.is_table_name(table):
        raise UsageError(f"{table!r} is not a table name: write schema.table with a-z, 0-9 and _")
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
    lines = lists[dag].read_text(encoding="utf-8").splitlines(keepends=True)
    steps = next(
        node.value
        for node in ast.parse("".join(lines)).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "dag_task_list"
    )
    assert steps.end_lineno is not None
    lines.insert(steps.end_lineno - 1, f'    {{"step": "{name}", "list": ["{table}"]}},\n')
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    lists[dag].write_text("".join(lines), encoding="utf-8")
    written = [f"wrote {settings.shown(path)}" for path in files]
    return [*written, f"added a line to {settings.shown(lists[dag])}", f"Edit them, then: ./lake test {table}"]
