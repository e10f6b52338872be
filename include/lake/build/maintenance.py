"""The maintenance of tables: fewer files, and none that nobody needs. It changes no rows and stops no build."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from include.lake import settings
from include.lake.build import failures
from include.lake.engine import server
from include.lake.errors import UsageError
from include.lake.project import contracts
from include.lake.storage import KEPT, store
from include.lake.words import counted

_MAX_DAYS = 3660


@dataclass(frozen=True)
class Line:
    """What to tell of a table."""

    text: str
    failed: bool = False


def tables(names: list[str] | None = None) -> list[str]:
    """The tables with these names, or all that keep rows, the ledger last. UsageError for what keeps none."""
    if not names:
        return contracts.that_keep_rows()
    for name in names:
        if name != contracts.LEDGER and contracts.get(name).view:
            raise UsageError(f"{name} is a view, which keeps no rows: maintain the tables that it reads")
    return list(dict.fromkeys(names))


def age(days: int) -> timedelta:
    """The age of files that may be deleted; UsageError if it is too young."""
    if days < KEPT.days:
        raise UsageError(
            f"--older-than-days {days}: at least {KEPT.days}, for a build or a reader may still read files that were "
            f"replaced in the last {KEPT.days} days"
        )
    if days > _MAX_DAYS:
        raise UsageError(
            f"--older-than-days {days:,}: at most {_MAX_DAYS:,} days, for the log itself is kept ten years"
        )
    return timedelta(days=days)


def maintain(table: str, older_than: timedelta = KEPT) -> str:
    """Maintain one table; gives a line for people."""
    began = time.monotonic()
    done = store().maintain(table, older_than)
    if done is None:
        return f"{table} does not exist yet"
    if done.note:
        # On Databricks it is the same for every table.
        return done.note if settings.on_databricks() else f"{table} {done.note}"
    now = counted(done.after, "file")
    files = now if done.after == done.before else f"{now} instead of {done.before:,}"
    lost = f", {counted(done.lost, 'partition')} left to builds of this moment" if done.lost else ""
    return f"{table}: {files}, {_size(done.freed)} freed{lost} ({time.monotonic() - began:.1f} s)"


def maintain_all(names: list[str], older_than: timedelta = KEPT) -> Iterator[Line]:
    """Maintain tables, one after the other, and tell of each. One that fails stops no other."""
    told = set()
    for name in names:
        try:
            line = Line(maintain(name, older_than))
        except Exception as error:
            if failures.is_bug(error):
                raise
            line = Line(f"{name}: {failures.first_line(error)}", failed=True)
        if line.text not in told:
            told.add(line.text)
            yield line
    if removed := remove_left_over(older_than):
        yield Line(f"{counted(removed, 'folder')} of dead processes removed")


def remove_left_over(older_than: timedelta = KEPT) -> int:
    """Remove what processes that died have left in the folder of the engine; gives how many folders."""
    return 0 if settings.on_databricks() else server.remove_left_over(older_than)


def _size(number: int) -> str:
    size = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
