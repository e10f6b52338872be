"""`./lake try`: what a SELECT gives as it is edited now, once or after each save."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from include.lake import settings
from include.lake.cli import text
from include.lake.errors import CODE, DATA, LakeError, UsageError
from include.lake.project import contracts
from include.lake.project.current import current_files
from include.lake.words import counted

_LOOK_SECONDS = 0.2


def run(options: Any, start: str, end: str) -> int:
    """Try the partitions start..end once; with --watch again whenever a file of the table is saved, until Ctrl-C."""
    from include.lake.engine import engine

    with engine().opened() as spark:
        if not options.watch:
            return _once(spark, options, start, end)
        try:
            while True:
                seen = _stamps(options.table)
                print(f"── {datetime.now():%H:%M:%S} {options.table}", flush=True)
                try:
                    _once(spark, options, start, end)
                    _run_cases(spark, options.table)
                except LakeError as error:
                    print(f"lake: {error}", flush=True)
                except Exception as error:
                    from include.lake.build import failures

                    if failures.is_bug(error):
                        raise
                    print(f"lake: {failures.first_line(error)}", flush=True)
                while _stamps(options.table) == seen:
                    time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            return 0


def _once(spark: Any, options: Any, start: str, end: str) -> int:
    from include.lake.build import attempt, checks, failures

    began = time.monotonic()
    try:
        with current_files():
            tried = attempt.attempt(spark, options.table, start, end, options.rows, options.case, options.diff)
    except Exception as error:
        if isinstance(error, LakeError) or failures.is_bug(error):
            raise
        contract = contracts.get(options.table)
        error = checks.masked(error, contract)
        kind = failures.kind(error)
        if kind not in (CODE, DATA) or failures.is_of_a_file(error):  # it is not about the SELECT
            raise error from None
        over_rows = "cannot be computed over these rows: " if kind == DATA else ""
        raise LakeError(f"{settings.shown(contract.select_path)}: {over_rows}{failures.first_line(error)}") from None
    print("\n".join(text.table(tried.rows)))
    lost = "".join(f", {count:,} dropped ({reason})" for reason, count in sorted(tried.dropped.items()))
    print(f"{counted(tried.count, 'row')}{lost} in {time.monotonic() - began:.1f} s; nothing is published")
    for note in tried.notes:
        print(note)
    if tried.difference:
        _print_difference(tried.difference)
    if tried.failure:
        print(tried.failure, flush=True)
        return 1
    return 0


def _print_difference(found: Any) -> None:
    published = counted(found.published, "row is", "rows are")
    print(f"{published} published: {found.added:,} added, {found.gone:,} gone, {found.changed:,} changed")
    for line in found.edited:
        print(f"  column {line}: it is not compared")
    for name, count in found.columns.most_common():
        old, new = found.examples[name]
        print(f"  {name}: {count:,} differ, such as {old!r} -> {new!r}")


def _run_cases(spark: Any, table: str) -> None:
    from include.lake.build import cases

    with current_files():
        for path in cases.paths([table]):
            case = cases.read(path)
            problems = cases.run(spark, case)
            print(f"{'FAILED' if problems else 'ok':6}  {case.name}", flush=True)
            for problem in problems:
                print(f"        {problem}", flush=True)


def _stamps(table: str) -> dict[Path, tuple[int, int]]:
    """The files that say what the table is, with their last change and size."""
    from include.lake.build import cases

    files = [settings.SQL / f"{table.replace('.', '/')}{ending}" for ending in (".sql", ".yaml")]
    found = {}
    for path in [*files, *cases.paths([table])]:
        try:
            stat = path.stat()
        except FileNotFoundError:  # an editor that writes a new file and renames it
            continue
        found[path] = stat.st_mtime_ns, stat.st_size
    if not found:
        raise UsageError(f"there is no table {table!r}: ./lake lineage lists the tables")
    return found
