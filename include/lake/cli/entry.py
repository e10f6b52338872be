"""What a run of Databricks does: build a table, build late days, or backfill a table. Airflow submits its parameters.

An error leaves as one exception. Its first line begins with the class of the error, by which Airflow decides about a
retry. The rows that it built are in the ledger, where Airflow reads them.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from include.lake import settings
from include.lake.errors import CODE, UsageError

# Of a DAG and its run, such as wev/scheduled__2026-01-05T16:00:00+00:00.
_RUN = re.compile(r"[\w.:+/~-]{1,500}", re.ASCII)


class RunFailed(Exception):
    """`data: …`, `code: …`, `conflict: …` or `infrastructure: …`, and then what people want to know."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the parameters of the run say. It never calls sys.exit: Databricks takes that for a failure."""
    try:
        options = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    except (argparse.ArgumentError, UsageError) as error:
        raise RunFailed(f"{CODE}: {error}") from None
    os.environ["LAKE_ENGINE"], os.environ["LAKE_CATALOG"] = settings.DATABRICKS, options.catalog
    from include.lake.build import failures

    try:
        from include.lake.engine import databricks
        from include.lake.project.current import held
        from include.lake.storage import unity_catalog

        with held():
            databricks.enter()
            _require_code(options.code_id)
            _WORK[options.work](options)
            unity_catalog.ensure_views(_codes(options.code_id))
    except RunFailed:
        raise
    except Exception as error:
        failure = failures.explain(error, ", ".join(_codes(options.code_id)), options.start, options.end)
        raise RunFailed(f"{failure.kind}: {failure.text}") from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(exit_on_error=False, add_help=False)
    parser.add_argument("work", choices=sorted(_WORK))
    parser.add_argument("--from", dest="start", required=True)
    parser.add_argument("--to", dest="end", required=True)
    parser.add_argument("--run", required=True, type=_run)
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--code-id", action="append", required=True, help="table=code id, of each table")
    parser.add_argument("--look-back", type=int, default=0)
    parser.add_argument("--mode", default="due")
    parser.add_argument("--days-per-batch", default="automatic")
    return parser


def _run(text: str) -> str:
    if not _RUN.fullmatch(text):
        raise UsageError(f"{text!r} is no name of a run")
    return text


def _codes(pairs: list[str]) -> dict[str, str]:
    """Table -> the id of its code in the version that submitted the run."""
    return dict(pair.partition("=")[::2] for pair in pairs)


def _require_code(pairs: list[str]) -> None:
    """Another version of a SELECT would make every day stale for ever, or fresh by the wrong rows."""
    from include.lake.project import lineage

    for table, code_id in _codes(pairs).items():
        if lineage.code_id(table) != code_id:
            raise UsageError(f"{table}: the wheel is another version than the DAGs: make deploy, and set LAKE_WHEEL")


def _build(options: argparse.Namespace) -> None:
    from include.lake.build import runner

    for table in _codes(options.code_id):
        runner.build(table, options.start, options.end, run=options.run, log=_say)


def _late(options: argparse.Namespace) -> None:
    from include.lake.build import late

    tables = list(_codes(options.code_id))
    result = late.build_stale_days(tables, options.start, options.look_back, options.run, _say)
    if result.failed:
        text = "\n".join(failure.text for failure in result.failed)
        kind = next((failure.kind for failure in result.failed if failure.retry), result.failed[0].kind)
        raise RunFailed(f"{kind}: {text}")


def _backfill(options: argparse.Namespace) -> None:
    from include.lake.backfill import plan, request
    from include.lake.backfill import run as backfill

    (table,) = _codes(options.code_id)
    asked = request.check([table], options.start, options.end, options.mode, options.days_per_batch, yes=True)
    bad = backfill.run_table(asked, table, options.run, _say, backfill.Progress(plan.plan(asked, options.run)))
    if bad:
        days_in_words = plan.ranges(table, sorted(bad))
        raise RunFailed(f"data: {table} has bad days: {days_in_words}: {next(iter(bad.values()))}")


_WORK = {"build": _build, "late": _late, "backfill": _backfill}


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
