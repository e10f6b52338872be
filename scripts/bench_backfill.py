"""`make bench-backfill`: compares scheduled runs, one per day, with one run of the `backfill` DAG on one machine.

Both build the wev tables from the same sample data with the same SELECTs on warm servers. The backfill comes second and
replaces the rows of the first (mode `all`), which is a little more work.
Settings: DAYS (90) and SCALE (0.1) of the sample data, LAKE_UI_PORT. It uses a temporary LAKE_HOME.
"""

import os
import shutil
import sys
import tempfile
import time
from functools import partial
from typing import Any

from include.lake import settings
from include.lake.backfill import plan
from include.lake.errors import LakeError
from include.lake.project import lineage
from include.lake.project.days import day_range, days_before
from scripts import airflow_env
from scripts.api import Api, built_tables, dag_ids, is_parsed
from scripts.options import read_number, ui_port
from scripts.run import down, until
from scripts.stack import Clock, Stack

FIRST = "2026-01-03"
# Two days before the range warm up Spark and Airflow, so that neither way pays for their first use.
WARM = day_range(days_before(FIRST, 2), days_before(FIRST, 1))
# Per-day runs of 90 days take a quarter of an hour or more.
PATIENCE_SECONDS = 4 * 3600
WANTED_RATIO, WANTED_OVERHEAD = 10.0, 0.3


def main() -> int:
    say = Clock()
    days = day_range(FIRST, days_before(FIRST, 1 - read_number("DAYS", 90, int)))
    os.environ["LAKE_HOME"] = tempfile.mkdtemp(prefix="lake-bench-")
    running = Stack(ui_port(), say)
    try:
        running.acquire()
        api = up(running, say, days, read_number("SCALE", 0.1, float))
        backfill(running, api, WARM)
        say("warm")
        per_day = scheduled(running, api, days)
        say(f"{len(days)} days, a run each: {per_day:.1f} s")
        ranged = backfill(running, api, days)
        say(f"{len(days)} days, the backfill DAG: {ranged:.1f} s")
        return report(days, per_day, ranged, sql_alone(days))
    except LakeError as error:
        print(f"make bench-backfill: {error}", file=sys.stderr)
        return 1
    finally:
        down(running, say)
        shutil.rmtree(os.environ["LAKE_HOME"], ignore_errors=True)


def up(running: Stack, say: Clock, days: list[str], scale: float) -> Api:
    """Start everything, make sample data, and switch the DAGs on."""
    running.start_engine()
    sample = running.lake("sample", "--from", WARM[0], "--to", days[-1], "--scale", str(scale))
    running.spawn("sample", sample, {**os.environ, "PYTHONPATH": str(settings.ROOT)})
    env = airflow_env.of_make_run(running.port, running.start_postgres())
    running.migrate(env)
    running.wait("sample")
    running.wait_for_engine()
    for name in airflow_env.AIRFLOW:
        running.start_airflow(name, env)
    api = Api(running.url, airflow_env.USER, airflow_env.password())
    until(running, api.up, PATIENCE_SECONDS, "the Airflow API")
    for dag_id in [*dag_ids(), "backfill"]:
        until(running, partial(is_parsed, api, dag_id), PATIENCE_SECONDS, f"Airflow to parse {dag_id}")
        api("PATCH", f"/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})
    say("everything is up")
    return api


def scheduled(running: Stack, api: Api, days: list[str]) -> float:
    """Seconds of Airflow's own backfill of the daily DAGs, with as many runs at a time as they allow."""
    began = time.monotonic()
    for dag_id in dag_ids():
        span = {"from_date": f"{days[0]}T00:00:00Z", "to_date": f"{days[-1]}T00:00:00Z"}
        api("POST", "/backfills", {"dag_id": dag_id, "max_active_runs": 8, "run_backwards": False, **span})

    def done() -> bool:
        ended = 0
        for dag_id in dag_ids():
            runs = f"/dags/{dag_id}/dagRuns?run_type=backfill&limit=1&state="
            if api("GET", runs + "failed")["total_entries"]:
                raise LakeError(f"a run of {dag_id} failed")
            ended += api("GET", runs + "success")["total_entries"]
        return ended == len(days) * len(dag_ids())

    until(running, done, PATIENCE_SECONDS, "the runs of the days")
    return time.monotonic() - began


def backfill(running: Stack, api: Api, days: list[str]) -> float:
    """Seconds of one run of the backfill DAG."""
    began = time.monotonic()
    conf: dict[str, Any] = {"first_day": days[0], "last_day": days[-1], "tables": dag_ids(), "mode": "all"}
    run = api("POST", "/dags/backfill/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]

    def state() -> str:
        run_state = str(api("GET", f"/dags/backfill/dagRuns/{run}")["state"])
        return run_state if run_state in ("success", "failed") else ""

    if until(running, state, PATIENCE_SECONDS, "the backfill") == "failed":
        raise LakeError(f"the backfill failed: its logs are in {airflow_env.logs()}")
    return time.monotonic() - began


def sql_alone(days: list[str]) -> float:
    """Seconds of the SELECTs of the range in Spark, without checks, commits and ledger."""
    from include.lake.build import runner
    from include.lake.engine import engine
    from include.lake.state.look import Look

    lake, seconds = Look(), 0.0
    with engine().opened() as spark:
        for table in built_tables():
            for name in lineage.inputs(table):
                snapshot = lake.snapshot(name)
                assert snapshot is not None
                engine().view(spark, lineage.view_name(name), snapshot.address, snapshot.version)
            began = time.monotonic()
            runner.compute(spark, table, days[0], days[-1]).write.format("noop").mode("overwrite").save()
            seconds += time.monotonic() - began
    return seconds


def report(days: list[str], per_day: float, ranged: float, sql: float) -> int:
    partitions = len(days) * len(built_tables())
    overhead = max(0.0, ranged - sql) / partitions
    rows = [["way", "partitions", "seconds", "seconds a partition"]]
    for way, seconds in (("a run per day", per_day), ("the backfill DAG", ranged), ("the SELECTs alone", sql)):
        rows.append([way, f"{partitions:,}", f"{seconds:.1f}", f"{seconds / partitions:.2f}"])
    print("\n".join(plan.columns(rows)))
    print(f"{per_day / ranged:.1f} times as fast (wanted: {WANTED_RATIO:g}); beyond the SELECTs {overhead:.2f} s a "
          f"partition (wanted: at most {WANTED_OVERHEAD:g})")  # fmt: skip
    return 0 if per_day / ranged >= WANTED_RATIO and overhead <= WANTED_OVERHEAD else 1


if __name__ == "__main__":
    sys.exit(main())
