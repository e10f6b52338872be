"""`make bench-checks`: the extra time of 20 checks of rows and 5 checks of days in a build.

One warm Spark Connect server builds a day of the server log with and without the checks in turn.
Settings: SCALE (1) of the sample data, ROUNDS (7). It uses a temporary LAKE_HOME.
"""

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from include.lake import settings
from include.lake.backfill import plan
from include.lake.build import runner
from include.lake.engine import engine
from include.lake.errors import LakeError
from include.lake.project import contracts, lineage
from include.lake.storage import delta_files as storage
from include.sample import generate
from scripts.options import read_number
from scripts.stack import Clock

TABLE = "we_mart.wv_server_log_base"
DAY = "2026-01-05"
# Two builds of each kind are not measured, because Java first compiles the code that runs often.
WARM = 2
WANTED = 0.2
ROWS = [
    "sess_seq > 0", "log_dt is not null", "sess_start_dt <= log_dt", "sess_end_dt >= log_dt",
    "user_sess_start_dt >= sess_start_dt", "user_sess_end_dt <= sess_end_dt", "sess_id is not null",
    "user_sess_id like concat(sess_id, '%')", "user_info_device_id <> ''", "length(hour) = 2",
    "platform is null or platform in ('APP', 'PC', 'MWEB', 'TV')", "is_join is null or is_join = 1",
    "is_leave is null or is_leave = 1", "comm_id is null or comm_id not like ' %'",
    "post_id is null or post_id rlike '^[0-9a-zA-Z_-]+$'", "notice_id is null or length(notice_id) < 20",
    "app_ver is null or app_ver rlike '^[0-9]+[.][0-9]+[.][0-9]+$'", "os is null or os = upper(os)",
    "user_id_fill is null or user_id_fill rlike '^[0-9]+$'", "chat_msg_count is null or chat_msg_count >= 0",
]  # fmt: skip
DAYS = [
    "count(*) > 0", "count(distinct user_info_device_id) > 10", "max(sess_seq) < 1000",
    "avg(unix_millis(sess_end_dt) - unix_millis(sess_start_dt)) > 0", "count(user_id_fill) > 0.1 * count(*)",
]  # fmt: skip


def main() -> int:
    say = Clock()
    rounds, scale = read_number("ROUNDS", 7, int), read_number("SCALE", 1.0, float)
    os.environ["LAKE_HOME"] = tempfile.mkdtemp(prefix="lake-bench-")
    seconds: dict[str, list[float]] = {"without checks": [], f"{len(ROWS)} of rows, {len(DAYS)} of days": []}
    try:
        engine().start()
        for table, day, rows in generate.days(DAY, DAY, scale):
            if table in lineage.inputs(TABLE):
                storage.replace(contracts.get(table), rows)
                say(f"{table} of {day}: {rows.num_rows:,} rows")
        kinds = [with_checks([]), with_checks([*ROWS, *DAYS])]
        for number in range(WARM + rounds):
            for name, sql in zip(seconds, kinds, strict=True):
                settings.SQL = sql
                took = runner.build(TABLE, DAY, DAY, force=True, log=lambda line: None).seconds
                if number >= WARM:
                    seconds[name].append(took)
            say(f"round {number + 1} of {WARM + rounds}")
        return report(seconds)
    except LakeError as error:
        print(f"make bench-checks: {error}", file=sys.stderr)
        return 1
    finally:
        engine().stop()
        shutil.rmtree(os.environ["LAKE_HOME"], ignore_errors=True)


def with_checks(checks: list[str]) -> Path:
    """A copy of the project's contracts and SELECTs, with these checks added to TABLE."""
    folder = Path(os.environ["LAKE_HOME"]) / f"sql-{len(checks)}"
    shutil.copytree(settings.ROOT / "include" / "sql", folder)
    path = folder / f"{TABLE.replace('.', '/')}.yaml"
    lines = "".join(f'  - "{check}"\n' for check in checks)
    path.write_text(path.read_text(encoding="utf-8") + (f"checks:\n{lines}" if checks else ""), encoding="utf-8")
    return folder


def report(seconds: dict[str, list[float]]) -> int:
    middle = {name: statistics.median(took) for name, took in seconds.items()}
    rows = [["a build", "median s", "fastest s", "slowest s"]]
    for name, took in seconds.items():
        rows.append([name, f"{middle[name]:.2f}", f"{min(took):.2f}", f"{max(took):.2f}"])
    print("\n".join(plan.columns(rows)))
    without, with_them = middle.values()
    cost = with_them / without - 1
    print(f"the checks cost {cost:.0%} on top (wanted: at most {WANTED:.0%})")
    return 0 if cost <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
