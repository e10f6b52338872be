"""`make bench-parse`: how long Airflow takes to parse the DAG files with 100 and with 500 tables. No Spark.

A table has eight columns, two checks and a SELECT with a WITH clause, a join and a group by. A task list has ten
tables. New processes parse all DAG files, as the DAG processor does. Measured are the seconds of CPU beyond
`import airflow.sdk`, in the quickest of ROUNDS (5) parses; and what the first parse after an edit of one SELECT takes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from include.lake import settings
from scripts.options import read_number
from scripts.stack import Clock

# Tables -> seconds that a parse may take. Airflow parses the files again every half a minute, in a process each.
WANTED = {100: 0.5, 500: 1.0}
TABLES_PER_LIST = 10
SOURCE = """\
about: Events. One row is one call.
partitioned_by: [day]
columns:
  - {name: user_id, type: string, comment: who called}
  - {name: amount, type: bigint, comment: what it cost}
  - {name: country, type: string, comment: from where}
  - {name: day, type: string}
"""
CONTRACT = """\
about: Calls of table number. One row is one user of one day.
key: [user_id]
partitioned_by: [day]
columns:
  - {name: user_id, type: string, comment: who called}
  - {name: calls, type: bigint, comment: how often}
  - {name: amount, type: bigint, comment: what it cost}
  - {name: country, type: string, comment: from where}
  - {name: country_name, type: string, comment: "the name, or its code"}
  - {name: is_large, type: boolean, comment: more than 100}
  - {name: day, type: string}
  - {name: run_timestamp, type: timestamp}
checks:
  - calls > 0
  - count(*) > 0
"""
SELECT = """\
-- Calls by user.
with calls as (
    select event.user_id, event.country, event.day, sum(event.amount) as amount, count(*) as calls
    from {above} as event
    where event.day between :start_date and :end_date and event.user_id is not null
    group by event.user_id, event.country, event.day
)
select
    calls.user_id,
    max(calls.country) as country,
    coalesce(max(country.user_id), max(calls.country)) as country_name,
    sum(calls.calls) as calls,
    sum(calls.amount) as amount,
    case when sum(calls.amount) > 100 then true else false end as is_large,
    calls.day
from calls
left join bench.event as country on calls.country = country.country and country.day = calls.day
group by calls.user_id, calls.day
"""
LIST = '''\
"""Tables of a benchmark."""

dag_id = "{dag_id}"
owner = "me"
schedule = "daily"
timezone = "Asia/Seoul"
look_back_days = 3
dag_task_list = [{{"step": "all", "list": {tables}}}]
'''
PARSE = """\
import json, sys, time
from pathlib import Path
import airflow.sdk
from airflow.sdk import DAG, BaseOperator, TaskGroup
started = time.process_time()
from include.lake import settings
settings.SQL, settings.ROOT = Path({sql!r}), Path({root!r})
import {files}
seconds = time.process_time() - started
dags = [dag for file in ({files},) for dag in vars(file).values() if isinstance(dag, DAG)]
assert not any(hasattr(dag, "problems") for dag in dags), [dag.problems for dag in dags if hasattr(dag, "problems")]
print(json.dumps({{"seconds": seconds, "tasks": sum(len(dag.tasks) for dag in dags)}}))
"""


def main() -> int:
    say, rounds, good = Clock(), read_number("ROUNDS", 5, int), True
    home = Path(tempfile.mkdtemp(prefix="lake-bench-"))
    try:
        for tables, wanted in WANTED.items():
            root = home / str(tables)
            make_project(root, tables)
            first = parse(home, root)["seconds"]
            figures = [parse(home, root) for _ in range(rounds)]
            seconds = min(figure["seconds"] for figure in figures)
            select = root / "include" / "sql" / "bench" / "table_7.sql"
            select.write_text(select.read_text().replace("> 100", "> 200"))
            edited = parse(home, root)["seconds"]
            say(f"{tables} tables, {figures[0]['tasks']:,.0f} tasks: {seconds:.2f} s (wanted: at most {wanted} s), "
                f"{edited:.2f} s after an edit, {first:.2f} s the first time")  # fmt: skip
            good = good and seconds <= wanted
        return not good
    finally:
        shutil.rmtree(home, ignore_errors=True)


def make_project(root: Path, tables: int) -> None:
    """A source, and tables that stand on it and on each other, in task lists of the family wev."""
    sql, lists = root / "include" / "sql" / "bench", root / "dags" / "utils" / "dynamic_dag" / "wev" / "task_list"
    sql.mkdir(parents=True)
    lists.mkdir(parents=True)
    (sql / "event.yaml").write_text(SOURCE)
    for number in range(tables):
        above = f"bench.table_{number // 2}" if number > 1 else "bench.event"
        (sql / f"table_{number}.sql").write_text(SELECT.format(above=above))
        (sql / f"table_{number}.yaml").write_text(CONTRACT)
    for first in range(0, tables, TABLES_PER_LIST):
        listed = [f"bench.table_{number}" for number in range(first, min(first + TABLES_PER_LIST, tables))]
        dag_id = f"bench_{first:04}"
        (lists / f"{dag_id}.py").write_text(LIST.format(dag_id=dag_id, tables=json.dumps(listed)))


def parse(home: Path, root: Path, files: str = "backfill, wev") -> dict[str, float]:
    paths = (settings.ROOT / folder for folder in ("", "dags", "plugins"))
    environment = {
        **os.environ,
        "LAKE_HOME": str(home / "lake"),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    program = PARSE.format(sql=str(root / "include" / "sql"), root=str(root), files=files)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(ended.stderr)
    figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
