"""What a run of Databricks does: build a table, build late days, or backfill a table. Airflow submits its parameters.

An error leaves as one exception. Its first line begins with the class of the error, by which Airflow decides about a
retry. The rows that it built are in the ledger, where Airflow reads them.
"""

import os
import sys
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from include.lake import settings
from include.lake.errors import CODE, UsageError


class Options(BaseModel, extra="forbid"):
    """The named parameters of a run. `codes`: table=id of its code in the version that submitted the run, …"""

    work: Literal["build", "late", "backfill"]
    first: str
    last: str
    # Of a DAG and its run, such as wev/scheduled__2026-01-05T16:00:00+00:00.
    run: str = Field(pattern=r"^[a-zA-Z0-9_.:+/~-]{1,500}$")
    catalog: str
    codes: str
    look_back: int = 0
    mode: str = "due"
    days_per_batch: str = "automatic"

    @property
    def code_ids(self) -> dict[str, str]:
        return dict(pair.partition("=")[::2] for pair in self.codes.split(","))


class RunFailed(Exception):
    """`data: …`, `code: …`, `conflict: …` or `infrastructure: …`, and then what people want to know."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the parameters of the run say. It never calls sys.exit: Databricks takes that for a failure."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        options = Options.model_validate(dict(one.removeprefix("--").partition("=")[::2] for one in given))
    except ValidationError as error:
        raise RunFailed(f"{CODE}: {error}") from None
    os.environ["LAKE_ENGINE"], os.environ["LAKE_CATALOG"] = settings.DATABRICKS, options.catalog
    from include.lake.build import failures

    try:
        from include.lake.engine import databricks
        from include.lake.project.current import held
        from include.lake.storage import unity_catalog

        with held():
            databricks.enter()
            _require_code(options.code_ids)
            _WORK[options.work](options)
            unity_catalog.ensure_views(options.code_ids)
    except RunFailed:
        raise
    except Exception as error:
        failure = failures.explain(error, ", ".join(options.code_ids), options.first, options.last)
        raise RunFailed(f"{failure.kind}: {failure.text}") from None


def _require_code(code_ids: dict[str, str]) -> None:
    """Another version of a SELECT would make every day stale for ever, or fresh by the wrong rows."""
    from include.lake.project import lineage

    for table, code_id in code_ids.items():
        if lineage.code_id(table) != code_id:
            raise UsageError(f"{table}: the wheel is another version than the DAGs: make deploy, and set LAKE_WHEEL")


def _build(options: Options) -> None:
    from include.lake.build import runner

    for table in options.code_ids:
        runner.build(table, options.first, options.last, run=options.run, log=_say)


def _late(options: Options) -> None:
    from include.lake.build import late

    tables = list(options.code_ids)
    result = late.build_stale_days(tables, options.first, options.look_back, options.run, _say)
    if result.failed:
        text = "\n".join(failure.text for failure in result.failed)
        kind = next((failure.kind for failure in result.failed if failure.retry), result.failed[0].kind)
        raise RunFailed(f"{kind}: {text}")


def _backfill(options: Options) -> None:
    from include.lake.backfill import plan, request
    from include.lake.backfill import run as backfill

    (table,) = options.code_ids
    asked = request.check([table], options.first, options.last, options.mode, options.days_per_batch, yes=True)
    bad = backfill.run_table(asked, table, options.run, _say, backfill.Progress(plan.plan(asked, options.run)))
    if bad:
        days_in_words = plan.ranges(table, sorted(bad))
        raise RunFailed(f"data: {table} has bad days: {days_in_words}: {next(iter(bad.values()))}")


_WORK = {"build": _build, "late": _late, "backfill": _backfill}


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
