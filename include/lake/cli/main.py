"""The command line `./lake`. Exit codes: 0 done, 1 failed, 2 the command itself is wrong."""

import argparse
import difflib
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn, TextIO

from include.lake import settings
from include.lake.backfill import request
from include.lake.cli import warm
from include.lake.errors import InputsMissing, LakeError, UsageError
from include.lake.project import contracts, current, lineage, periods, task_lists
from include.lake.project.current import held
from include.lake.project.days import day_range, days_before, parse_day
from include.lake.project.periods import Period
from include.lake.words import counted, span

_MAX_DAYS = 3660  # ten years: a longer range is a typing mistake
# The commands that work where nothing can be written, such as in a lake of somebody else.
_READERS = ("status", "show", "lineage", "show-sql", "new")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code. LAKE_DEBUG=1 shows the traceback of an unexpected error."""
    name = ""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # where one is closed
    try:
        options = _parser().parse_args(arguments)
        name = options.name
        settings.check(writes=name not in _READERS)  # before anything is read or written
        with held():  # an edit while a long command runs is for the next command
            code = int(options.command(options) or 0)
        sys.stdout.flush()  # so a full disk is an error of the command, and not of Python's exit
        return code
    except UsageError as error:
        print(f"lake: {error}", file=sys.stderr)
        return 2
    except LakeError as error:
        print(f"lake: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lake: stopped; what was committed stays, the rest is as it was", file=sys.stderr)
        return 130
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of delta-rs is a BaseException
        if not isinstance(error, BrokenPipeError):
            print(f"lake: {_explained(error, name)}", file=sys.stderr)
        with suppress(OSError, ValueError):  # Python would try to write the rest of stdout again at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # for as long as we live


def _explained(error: BaseException, command: str) -> str:
    """The message for people about an unexpected error."""
    from include.lake.build import failures

    if os.environ.get("LAKE_DEBUG"):
        traceback.print_exception(error)
    if not failures.is_bug(error):
        return failures.describe(error, command)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return f"{command} failed: {type(error).__name__} {error} ({where}); LAKE_DEBUG=1 shows the traceback"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="./lake",
        description="A lakehouse of daily tables: build them, look at them, ask what is missing or stale.",
        epilog="A day D is written yyyy-MM-dd, a table schema.name. LAKE_HOME is the folder of the lake (.lake).",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, run: Callable[[Any], int | None], help: str, **more: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", **more)
        added.set_defaults(command=run, name=name)
        return added

    def add_range(to: argparse.ArgumentParser, required: bool = True) -> None:
        to.add_argument("--from", dest="start", metavar="D", required=required, help="first day")
        to.add_argument("--to", dest="end", metavar="D", required=required, help="last day (inclusive)")

    sample = command(
        "sample", _sample, "make realistic data for every source, the same for the same day, scale and seed"
    )
    sample.add_argument("tables", nargs="*", metavar="SOURCE", help="only these sources")
    add_range(sample)
    sample.add_argument(
        "--scale", type=float, default=1.0, metavar="N", help="1 (the default) is 100,000 log rows a day"
    )
    sample.add_argument(
        "--seed", type=int, default=1, metavar="S", help="another number makes another world (default 1)"
    )
    sample.add_argument(
        "--late", action="store_true", help="deliver the days again, now with the events that come days late"
    )
    over = sample.add_mutually_exclusive_group()
    over.add_argument("--keep", action="store_true", help="deliver only what is not there")
    over.add_argument("--replace", action="store_true", help="sample rows take the place of days that were loaded, too")

    load = command(
        "load",
        _load,
        "replace the days of a source that the files hold, or that --from and --to say (all of a source without days)",
    )
    load.add_argument("table", metavar="TABLE")
    load.add_argument(
        "files", nargs="+", metavar="FILE", help=".jsonl, .csv or .parquet, a folder of such files, or of a Delta table"
    )
    add_range(load, required=False)
    for option, meaning in {
        "--drop-bad": "leave out and count rows that do not fit the contract",
        "--ignore-columns": "leave out columns that the contract does not know",
        "--allow-empty": "files without a good row are meant; --from and --to say which days are empty",
        "--replace-smaller": "days that lose more than half of their rows are meant",
    }.items():
        load.add_argument(option, action="store_true", help=meaning)

    build = command("build", _build, "build the days of tables that are missing or stale, in the order of their inputs")
    build.add_argument("tables", nargs="+", metavar="TABLE")
    add_range(build)
    build.add_argument("--upstream", action="store_true", help="and all built tables that these stand on")
    build.add_argument("--force", action="store_true", help="fresh days too")

    backfill = command(
        "backfill",
        _backfill,
        "build a range of days of many tables in few jobs; stopped and started again it goes on with what is left",
        epilog="Modes: " + "; ".join(f"{mode}: {meaning}" for mode, meaning in request.MODES.items()) + ".",
    )
    backfill.add_argument(
        "names", nargs="+", metavar="TABLE|STEP|DAG", help="tables, or the steps or DAGs that list them"
    )
    add_range(backfill)
    backfill.add_argument("--downstream", action="store_true", help="and everything that is made of these tables")
    backfill.add_argument(
        "--mode", default="due", metavar="MODE", help=f"{', '.join(request.MODES)} (see below; default due)"
    )
    backfill.add_argument(
        "--days-per-batch",
        type=_batch,
        default=request.AUTOMATIC,
        metavar="N",
        help="days in a job (default: as many as fit the machine)",
    )
    backfill.add_argument("--dry-run", action="store_true", help="show the plan and build nothing")
    backfill.add_argument("--yes", action="store_true", help="more than three years are meant")
    backfill.add_argument(
        "--run",
        metavar="NAME",
        help="with --mode all: go on where the run of this name was stopped",
    )

    maintain = command(
        "maintain",
        _maintain,
        "make the small files of tables one and delete files that nobody needs any more; the rows stay as they are",
    )
    maintain.add_argument("tables", nargs="*", metavar="TABLE", help="all by default, the ledger too")
    maintain.add_argument(
        "--older-than-days", type=int, default=7, metavar="N", help="delete files that no version of N days needs (7)"
    )

    status = command("status", _status, "show which days of which tables are fresh, missing, stale or failed")
    status.add_argument("tables", nargs="*", metavar="TABLE", help="all by default")
    add_range(status, required=False)
    status.add_argument("--json", action="store_true", help="a list of objects, with the reason of each state")
    status.add_argument("--why", metavar="TABLE", help="explain one table's day in words, with --day")
    status.add_argument("--day", metavar="D", help="the day that --why explains")

    show = command("show", _show, "show rows of a table's day, and where the table is stored")
    show.add_argument("table", metavar="TABLE")
    show.add_argument("--day", metavar="D", help="of a table with days")
    show.add_argument("--rows", type=_count, default=20, metavar="N", help="at most N rows (default 20)")

    test = command("test", _test, "run the cases of tables: hand-made rows with the expected rows beside them")
    test.add_argument("tables", nargs="*", metavar="TABLE", help="all by default")

    attempt = command(
        "try", _try, "compute the SELECT of a table as it is edited now, check the rows, and publish nothing"
    )
    attempt.add_argument("table", metavar="TABLE")
    attempt.add_argument("--day", metavar="D", help="the day, or a day of the week or month; not with --from and --to")
    add_range(attempt, required=False)
    attempt.add_argument("--rows", type=_count, default=20, metavar="N", help="at most N rows (default 20)")
    attempt.add_argument(
        "--case", metavar="NAME", help="take the inputs from this hand-made case, and its days where none are named"
    )
    attempt.add_argument("--diff", action="store_true", help="and compare the rows with those that are published")
    attempt.add_argument("--watch", action="store_true", help="again whenever SELECT, contract or a case is saved")

    of = command("lineage", _lineage, "show what a table is made of and what is made of it; all tables by default")
    of.add_argument("table", nargs="?", metavar="TABLE")

    sql = command("show-sql", _show_sql, "show the SELECT of a table, also one that is made from its contract")
    sql.add_argument("table", metavar="TABLE")

    new = command("new", _new, "write stubs of SELECT, contract and test case, and the line in the task list")
    new.add_argument("table", metavar="TABLE")
    new.add_argument("--dag", required=True, metavar="DAG", help="the DAG whose task list gets the table")

    engine = command(
        "engine", _engine, "start, stop or find the lake's own server of LAKE_ENGINE, which makes builds quick"
    )
    engine.add_argument("what", choices=["start", "stop", "status"], metavar="start|stop|status")

    ledger = command("ledger", _ledger, "make the ledger again from the commits of the tables")
    ledger.add_argument("what", choices=["rebuild"], metavar="rebuild")
    return parser


@contextmanager
def _ticking(activity: str) -> Iterator[None]:
    """Print every few seconds that `activity` still goes on."""
    done, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(5):
            print(f"… {activity}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    threading.Thread(target=tick, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _count(text: str) -> int:
    """A number of rows that an option takes."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows: give one from 0")
    return int(text)


def _batch(text: str) -> str:
    try:
        request.batch(text)
    except UsageError as error:  # argparse adds the name of the option
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _days(options: Any) -> list[str]:
    days = day_range(options.start, options.end)
    if len(days) > _MAX_DAYS:
        raise UsageError(
            f"{options.start}..{options.end} are {len(days):,} days; ask for at most {_MAX_DAYS:,} at once"
        )
    return days


def _sample(options: Any) -> None:
    from include.sample import deliver, generate

    days, began, rows = _days(options), time.monotonic(), 0
    tables = generate.require(options.tables, options.late)
    # Both before anything is written: a scale or a day that makes no sense is an error at once.
    current = () if options.late else generate.current(options.scale, options.seed, tables)
    dated = generate.days(days[0], days[-1], options.scale, options.seed, tables, options.late)
    delivery = deliver.Delivery(tables, days, options.keep, options.replace, options.late)
    for table, data in current:
        rows += delivery.deliver(table, "", data)
    for table, day, data in dated:
        delivered = delivery.deliver(table, day, data)
        rows += delivered
        if table == "service_log.weverse_server_log" and delivered:
            print(f"{day}: {counted(delivered, 'log row')} ({time.monotonic() - began:.1f} s)", flush=True)
    if delivery.kept:
        print("kept as they are:", *deliver.lines(delivery.kept), sep="\n")
    print(f"{counted(rows, 'row')} of {counted(len(days), 'day')} in {time.monotonic() - began:.1f} s")


def _load(options: Any) -> None:
    from include.lake.build.load import load

    if bool(options.start) != bool(options.end):
        raise UsageError("--from D and --to D go together")
    days = _days(options) if options.start else None
    with _ticking(f"loading {options.table}"):
        result = load(
            options.table, options.files, options.drop_bad, days=days, ignore_columns=options.ignore_columns,
            allow_empty=options.allow_empty, replace_smaller=options.replace_smaller,
        )  # fmt: skip
    for line in result.reasons:
        print(f"dropped {line}", file=sys.stderr)
    if result.no_values:
        print(f"no file has {', '.join(result.no_values)}: null in every row", file=sys.stderr)
    print("\n".join(result.lines(options.table)))


def _build(options: Any) -> None:
    days = _days(options)
    for name in options.tables:
        contracts.require_built(contracts.get(name))
    from include.lake.build import failures, runner

    tables = lineage.upstream(options.tables) if options.upstream else lineage.in_order(options.tables)
    waiting = []
    for name in tables:
        try:
            with _ticking(f"building {name}"):
                keys = periods.keys_of_days(contracts.get(name).grain, days[0], days[-1])
                runner.build(name, keys[0], keys[-1], force=options.force, log=lambda line: print(line, flush=True))
        except InputsMissing as error:  # the tables after it may have days with all inputs
            waiting.append(str(error))
        except Exception as error:
            if isinstance(error, LakeError) or failures.is_bug(error):
                raise
            raise LakeError(failures.explain(error, name, keys[0], keys[-1]).text) from error
    if waiting:
        raise InputsMissing("\n".join(waiting))


def _backfill(options: Any) -> int:
    checked = request.check(
        options.names, options.start, options.end, options.mode, options.days_per_batch, options.downstream, options.yes
    )
    if options.downstream:
        _name_broken()
    if options.run and checked.mode != "all":
        raise UsageError(f"--run is for --mode all: in mode {checked.mode} a backfill goes on without it")
    run = options.run or f"backfill-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if not re.fullmatch(r"[\w.:/+-]{1,100}", run):
        raise UsageError(f"--run {run!r}: at most 100 letters, digits and .:/+-_")
    from include.lake.backfill import plan

    if options.run and run not in (runs := plan.runs(checked)):
        near = difflib.get_close_matches(run, runs, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"--run {run}: no build of these tables and days is of that run; {hint}A run that was stopped before its "
            "first build begins again without --run"
        )
    planned = plan.plan(checked, run)
    print("\n".join(planned.lines()), flush=True)
    if options.dry_run or not planned.partitions:
        print("a dry run: nothing is built" if options.dry_run else "there is nothing to build")
        return 0
    if checked.mode == "all":
        print(f"if it is stopped, the same command with --run {run} goes on with what is left", flush=True)
    from include.lake.backfill import run as backfill
    from include.lake.cli.progress import showing

    with showing(backfill.Progress(planned)) as (progress, log):
        results, stopped = backfill.run(checked, run, log, progress)
    print("\n".join(backfill.summary(results, stopped)))
    return 0 if backfill.is_good(results) and not stopped else 1


def _maintain(options: Any) -> int:
    from include.lake.build import maintenance

    tables, age = maintenance.tables(options.tables), maintenance.age(options.older_than_days)
    if not options.tables:
        _name_broken()
    failed = 0
    for line in maintenance.maintain_all(tables, age):
        failed += line.failed
        print(line.text, file=sys.stderr if line.failed else sys.stdout, flush=True)
    return 1 if failed else 0


def _why(table: str, day: str) -> None:
    """Explain the state of one table on one day, and the inputs that are the reason."""
    from include.lake.state.look import FRESH, Look

    lake, is_built = Look(), contracts.get(table).is_built
    lineage.in_order([table])  # an error for a circle, of which the inputs have no end

    def tell(name: str, of: str, depth: int) -> None:
        state, own = lake.state(name, of), lake.own_state(name, of)
        # The line of the input itself, below, says its state.
        why = own.why if own.state != FRESH or state.state == FRESH else "an input is not fresh"
        # The last line of all says when the table was built.
        because = "" if is_built and not depth and state.state == FRESH else f": {why.splitlines()[0]}"
        print(f"{'  ' * depth}{name} {of} is {state.state}{because}")
        for above, days in lake.input_days(name, of, of).items():
            for needed in days if contracts.get(above).has_days else []:
                if depth == 0 or lake.state(above, needed).state != FRESH:
                    tell(above, needed, depth + 1)

    day = _partition(contracts.get(table), day)
    tell(table, day, 0)
    if build := lake.build_of(table, day) if is_built else None:
        lost = "".join(f", {count:,} dropped ({reason})" for reason, count in sorted(build["dropped"].items()))
        warnings = ((name, counted(count, "time")) for name, count in build["checks"].items() if count)
        warned = "".join(f", `{name}` warns {times}" for name, times in warnings)
        rows = counted(build["rows"], "row")
        print(f"last built {build['built_at']:%F %T} UTC by {build['run']}: {rows}{lost}{warned}")


def _status(options: Any) -> None:
    if options.why or options.day:
        if not (options.why and options.day):
            raise UsageError("--why TABLE and --day D go together")
        if options.tables or options.start or options.end or options.json:
            raise UsageError("--why explains one table's day in words: leave --from, --to, --json and other tables out")
        _require_status([options.why])
        _why(options.why, options.day)
        return
    tables = [contracts.get(name).table for name in options.tables] or lineage.in_order()
    lineage.in_order(tables)  # a broken table that the user names is an error
    _name_broken()
    from include.lake.state.look import Look

    _require_status(options.tables)
    lake = Look()
    with_days = [name for name in tables if contracts.get(name).has_days]
    # A day of an input that the table does not have yet is one that the table waits for, or could be built for.
    near = {*tables, *(above for name in lineage.upstream(tables) for above in lineage.inputs(name))}
    near_days = sorted(name for name in near if contracts.get(name).has_days)
    newest, today = {name: lake.newest_day(name) for name in near_days}, task_lists.today()
    # A row of a wrong year does not move the range: else every status showed that year, and nothing of this one.
    end = (
        parse_day(options.end)
        if options.end
        else max(options.start or "", min(max(newest.values(), default=""), today))
    )
    if not end:
        raise _no_days(lake, options.tables, near_days)
    if not options.end:
        for name, day in newest.items():
            if day > Period.of(contracts.get(name).grain, today).last_day:
                print(f"{name} has days after today, up to {day}: --to {day} shows them", file=sys.stderr)
    options.start, options.end = options.start or days_before(end, 6), end
    days = _days(options)
    by_table = {name: [lake.state(name, _partition(contracts.get(name), day)) for day in days] for name in with_days}
    states = list(dict.fromkeys(state for line in by_table.values() for state in line))  # a week has seven days
    if options.json:
        report = [
            {
                "table": state.table, "day": state.day, "state": state.state, "rows": state.rows,
                "built_at": state.built_at and state.built_at.isoformat(), "why": state.why,
            }
            for state in states
        ]  # fmt: skip
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return
    width = max(len(name) for name in with_days) if with_days else 0
    print(" " * width + "  " + "  ".join(f"{day[5:]:7}" for day in days) + f"   ({span(days[0], days[-1])})")
    for is_source in (False, True):
        for name, line in by_table.items():
            if contracts.get(name).is_source == is_source:
                print(
                    f"{name:{width}}  "
                    + "  ".join(f"{'loaded' if is_source and s.state == 'fresh' else s.state:7}" for s in line)
                )
    for name, line in by_table.items():
        for reason in _reasons(lake, name, list(dict.fromkeys(line)), every=bool(options.tables)):
            print(reason)


def _require_status(tables: list[str]) -> None:
    if undated := [name for name in tables if not contracts.get(name).has_days]:
        raise UsageError(f"{undated[0]} has no days, and so no status: ./lake show {undated[0]}")


def _reasons(lake: Any, table: str, states: list[Any], every: bool) -> Iterator[str]:
    """A line for each partition that is not fresh, and one for missing partitions in a row that lack the same.

    Without `every` only the missing partitions of a source that have rows: the others are too many in a whole lake.
    """
    is_source = contracts.get(table).is_source

    def lack(state: Any) -> Any:
        if state.state != "missing":
            return state
        if is_source:
            return state.why
        return {name: {*why.values()} for name, why in lake.absent_inputs(table, state.day, state.day).items()}

    for _, group in groupby(states, lack):
        first, *more = group
        if first.state == "fresh" or (first.state == "missing" and first.rows is None and not every):
            continue
        last = more[-1].day if more else first.day
        why = lake.why_missing(table, first.day, last) if more and not is_source else first.why.splitlines()[0]
        yield f"{table} {span(first.day, last)} is {first.state}: {why}"


def _no_days(lake: Any, named: list[str], tables: list[str]) -> LakeError:
    """The error about tables, the named ones and their inputs, none of which has a day; it says what makes one."""
    from include.sample import generate

    for name in tables:
        lake.day_versions(name)  # nobody knows whether a table that cannot be looked at has days
    sources = [name for name in tables if contracts.get(name).is_source]
    cure = f"./lake load {sources[0] if len(sources) == 1 else 'SOURCE'} FILE takes yours"
    if named and not sources:
        cure = f"./lake build {named[0]} --from D --to D makes them"
    if not generate.DAILY.keys().isdisjoint(sources):
        cure += ", ./lake sample --from D --to D makes sample data"
    others = [name for name in sources if name not in named]
    more = f", nor of {', '.join(others)}" if named and others else ""
    return LakeError(f"no days yet of {', '.join(named) or 'any table'}{more}: {cure}")


def _show(options: Any) -> None:
    contract = contracts.get(options.table)
    if options.day and not contract.day_column:
        raise UsageError(f"{contract.table} is not kept by days: leave --day out")
    from include.lake.storage import store

    if contract.view:
        from include.lake.build import attempt

        rows, notes = attempt.view(contract.table)
        print("".join(f"{note}\n" for note in notes), end="")
        _print_rows(rows, options.rows)
        return
    snapshot = store().open(contract.table)
    if snapshot is None:
        lineage.in_order([contract.table])  # an error if it is broken: then nothing makes it
        raise LakeError(f"{contract.table} does not exist yet: {_maker(contract)}")
    if contract.day_column and not options.day:
        raise UsageError(f"{contract.table} has days: name one with --day D")
    day = _partition(contract, options.day) if contract.day_column else ""
    where = {contract.day_column: [day]} if contract.day_column else None
    rows = store().rows(snapshot, where, options.rows if where else None)
    number = rows.num_rows
    if where and number == options.rows:  # there may be more
        number = store().values(snapshot, str(contract.day_column), [day], ["count(*) as number"])["number"][0].as_py()
    note = _about_no_rows(contract, day) if day and not number else ""
    # The newest layout of the table first: what a reader wants to see is its contract's order.
    shown = rows.select([name for name in contract.column_names if name in rows.column_names])
    _print_rows(shown, options.rows, number)
    print(f"{note}stored in {snapshot.address}")


def _about_no_rows(contract: contracts.Contract, day: str) -> str:
    """A line about a day that is known to have no rows. LakeError if it is not there."""
    from include.lake.state.look import FRESH, Look

    state = Look().own_state(contract.table, day)
    if state.rows is None:
        period = Period(contract.grain, day)
        cure = "" if contract.is_source else f": {_maker(contract, period.first_day, period.last_day)}"
        raise LakeError(f"{contract.table} of {day} is {state.state}: {state.why.splitlines()[0]}{cure}")
    what = "" if state.state == FRESH else f"{state.state}, "
    return f"{contract.table} of {day} has no rows: {what}{state.why.splitlines()[0]}\n"


def _print_rows(rows: Any, count: int, of: int | None = None) -> None:
    """The first rows of an Arrow table, and how many there are, `of` if it has not all of them."""
    from include.lake.cli import text

    shown = rows.slice(0, count)
    print("\n".join(text.table(shown)))
    number = rows.num_rows if of is None else of
    print(counted(number, "row") + (f", {shown.num_rows} shown" if shown.num_rows < number else ""))


def _partition(contract: contracts.Contract, text: str) -> str:
    """The partition that a user names: its key, or a day, which stands for the period that it is in."""
    if contract.grain == "month" and len(text) == len("yyyy-MM"):
        return Period.parse("month", text).text
    return Period.of(contract.grain, parse_day(text)).text


def _name_broken() -> None:
    """Print the broken tables that a command over all tables leaves out, and the reason."""
    for message in dict.fromkeys(lineage.broken().values()):
        print(f"left out: {message}", file=sys.stderr)


def _maker(contract: contracts.Contract, first: str = "D", last: str = "D") -> str:
    days = f"--from {first} --to {last}"
    verb = "load {} FILE" if contract.is_source else "show {}" if contract.view else f"build {{}} --upstream {days}"
    return "./lake " + verb.format(contract.table)


def _lineage(options: Any) -> None:
    if options.table is not None:
        lineage.in_order([options.table])  # an error for a broken one, and for a circle, of which the tree has no end
    order = lineage.in_order()
    _name_broken()
    if options.table is None:
        for name in order:
            made_of = ", ".join(lineage.inputs(name))
            print(f"{name} <- {made_of}" if made_of else f"{name} (source)")
        return

    def tree(name: str, depth: int, earlier: int | str = 0) -> None:
        many = "all earlier days" if earlier == "all" else counted(int(earlier), "earlier day")
        days = f"  (and {many})" if earlier else ""
        print("  " * depth + name + ("" if lineage.inputs(name) else "  (source)") + days)
        for above in lineage.inputs(name):
            tree(above, depth + 1, dict(contracts.get(name).reads).get(above, 0))

    tree(contracts.get(options.table).table, 0)
    below = [name for name in order if options.table in lineage.inputs(name)]
    print(f"read by: {', '.join(below) or 'no table'}")


def _show_sql(options: Any) -> None:
    contract = contracts.get(options.table)
    if contract.is_source:
        raise UsageError(f"{contract.table} is a source, it has no SELECT: {_maker(contract)}")
    print(current.project().select_text(contract.table).rstrip())
    for name, touch in lineage.touches(contract.table).items():
        print(f"\n-- The keys that the rows of {name} touch, where they came or went:\n{touch.keys.text.strip()}")


def _test(options: Any) -> int:
    from include.lake.build import cases, failures
    from include.lake.engine import engine

    for name in options.tables:
        if contracts.get(name).is_source:
            raise UsageError(f"{name} is a source, nothing computes it")
        cases.require(name)
    began, failed = time.monotonic(), 0
    # All of them first: a mistake in a file costs no start of Spark.
    chosen = [cases.read(path) for path in cases.paths(options.tables or None)]
    with _ticking("testing"), engine().opened() as spark:
        for case in chosen:
            try:
                problems = cases.run(spark, case)
            except Exception as error:
                if failures.is_bug(error):
                    raise
                problems = [failures.first_line(error)]
            failed += bool(problems)
            about = " ".join(case.about.split())
            print(f"{'FAILED' if problems else 'ok':6}  {case.table} {case.name}: {about}", flush=True)
            for problem in problems:
                print(f"        {problem}")
    many = counted(len(chosen), "case")
    result = f"{failed} of {many} failed" if failed else counted(len(chosen), "case holds", "cases hold")
    print(f"{result} ({time.monotonic() - began:.1f} s)")
    return 1 if failed else 0


def _try(options: Any) -> int:
    from include.lake.cli import attempt

    contract = contracts.get(options.table)
    if not contract.is_built:
        cure = f": ./lake show {contract.table}" if contract.view else ""
        kind = "view" if contract.view else "source"
        raise UsageError(f"{contract.table} is a {kind}, there is nothing to try{cure}")
    lineage.in_order([contract.table])  # an error for a circle
    case = None
    if options.case:
        from include.lake.build import cases

        case = cases.read(cases.path(contract.table, options.case))
    if options.day and (options.start or options.end):
        raise UsageError("--day D and --from D --to D do not go together: leave one of them out")
    if options.day:
        options.start = options.end = options.day
    if case and not (options.start or options.end):
        return attempt.run(options, case.start, case.end)
    if not (options.start and options.end):
        raise UsageError("name the day with --day D, or a range with --from D and --to D")
    days = _days(options)
    keys = periods.keys_of_days(contract.grain, days[0], days[-1])
    if case and not case.start <= keys[0] <= keys[-1] <= case.end:
        print(f"note: the case {case.name} is of {span(case.start, case.end)}, which it takes without --day")
    return attempt.run(options, keys[0], keys[-1])


def _new(options: Any) -> None:
    from include.lake.cli import new as scaffold

    for line in scaffold.new(options.table, options.dag):
        print(line)


def _ledger(options: Any) -> None:
    from include.lake.state import ledger

    unread: list[str] = []
    with _ticking("reading the commits"):
        before, after = ledger.rebuild(unread.append)
    for line in unread:
        print(f"lake: {line}", file=sys.stderr)
    print(f"{ledger.TABLE}: {counted(after, 'row')} from the commits and the failures kept, {before:,} before")


def _engine(options: Any) -> int | None:
    from include.lake.engine import engine
    from include.lake.local import locks

    if options.what == "start":
        print(engine().start())
        warm.start()
    elif options.what == "stop":
        if (run := locks.holder(settings.run_lock())) is not None:
            raise LakeError(f"`make run` is at work ({run}) and builds with this engine: end it with Ctrl-C there")
        print("stopped" if engine().stop() else "none was running")
    elif others := settings.server_of_others():
        _require_answer(others)
        print(f"{others} answers")
    else:
        from include.lake.engine import server

        address, other = engine().address(), server.address()
        none = f"a server of another engine runs at {other}, and builds do not use it: ./lake engine stop ends it"
        print(address or (none if other else "none is running: ./lake engine start"))
        return 0 if address else 1
    return None


def _require_answer(address: str) -> None:
    """LakeError unless the server that LAKE_ENGINE names gives us a session."""
    from include.lake.build import failures
    from include.lake.engine import connect, engine

    connect.require_listening(address)  # a session would wait for a server that is perhaps being started
    try:
        with engine().opened():
            pass
    except Exception as error:
        if isinstance(error, LakeError) or failures.is_bug(error):
            raise
        details = re.search(r'details = "(.*)"', str(error))  # of gRPC: its first line only says what it is
        reason = details[1] if details else failures.first_line(error)
        raise LakeError(f"{address} listens, but gives no session: {reason}") from None
