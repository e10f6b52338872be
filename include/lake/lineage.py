"""What the SELECTs say: the tables they read, the columns they give, and an id of their meaning."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import sqlglot
from sqlglot import exp
from sqlglot.tokens import TokenType

from include.lake import contracts, readiness, settings
from include.lake.contracts import DROP_REASON, RUN_TIMESTAMP, Contract
from include.lake.days import parse_day
from include.lake.errors import ContractError, LakeError

PARAMETERS = {"start_date", "end_date"}
# In a check: the rows that would be published.
THIS = "this"
# What would make two builds of the same inputs differ.
_NOT_REPEATABLE = (
    exp.CurrentDate,
    exp.CurrentTimestamp,
    exp.Localtimestamp,
    exp.Rand,
    exp.Randn,
    exp.Shuffle,
    exp.Uuid,
)
# The same of functions that sqlglot does not know as such.
_NOT_REPEATABLE_NAMES = {"now", "monotonically_increasing_id", "spark_partition_id", "input_file_name"}


@dataclass(frozen=True)
class Template:
    """A query over tables and days. `_spans`: where in the text (from, to) a table or a parameter is named."""

    text: str
    tree: exp.Expr
    _spans: tuple[tuple[int, int, str], ...]

    def meaning(self) -> str:
        """The query without comments and formatting. Not needed, and so not made, when DAGs are parsed."""
        return self.tree.sql(dialect="spark", comments=False, normalize=True)

    def over_views(self, start: str, end: str) -> str:
        """The text for start..end, with every table replaced by its `view_name`. Nothing else is touched.

        The days are written into it and not bound: Delta's parser loses the `args` of spark.sql() on Spark 4.1 and
        later (delta-io/delta#7640). What `parse_day` lets through cannot be anything but a day.
        """
        days = {"start_date": f"'{parse_day(start)}'", "end_date": f"'{parse_day(end)}'"}
        text = self.text
        for begins, ends, name in sorted(self._spans, reverse=True):
            # A table has an alias of its own, and `this` is known by that name.
            view = f"{view_name(name)} as {name}" if name == THIS else view_name(name)
            text = text[:begins] + days.get(name, view) + text[ends:]
        return text


@dataclass(frozen=True)
class Select(Template):
    """A SELECT as the runner needs it. `inputs`: the tables it reads; `columns`: what it gives."""

    inputs: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ParsedCheck(Template):
    """A check of a contract. `kind`: `row`, `day` (it has aggregates) or `select` (it gives the rows that break it)."""

    kind: str
    severity: str


def view_name(table: str) -> str:
    """The session view that stands for a table at one version while a build runs."""
    return "input__" + table.replace(".", "__")


def parse_select(text: str, contract: Contract) -> Select:
    """Parse and check a SELECT against its contract; ContractError names file, line and cure."""
    shown = settings.shown(contract.select_path)

    def wrong(what: str, line: int | None = None) -> ContractError:
        return ContractError(f"{shown}{f':{line}' if line else ''}: {what}")

    def line_of(needle: str) -> int | None:
        return next((n for n, content in enumerate(text.splitlines(), 1) if needle.lower() in content.lower()), None)

    tree = _parse(text, wrong)
    if not isinstance(tree, exp.Query):
        raise wrong("must be exactly one SELECT")
    if name := _not_repeatable(tree):
        raise wrong(f"{name}() makes two builds differ; use :start_date and :end_date", line_of(name))

    parameters = {node.name for node in tree.find_all(exp.Placeholder, exp.Parameter)}
    for name in sorted(parameters - PARAMETERS):
        raise wrong(f"unknown parameter :{name}; there are :start_date and :end_date", line_of(f":{name}"))
    if parameters != PARAMETERS:
        raise wrong("must restrict the days with both :start_date and :end_date (a day is a range of one)")

    columns = tree.named_selects
    if any(isinstance(node, exp.Star) for node in tree.selects) or "*" in columns:
        raise wrong("name the columns of the outer SELECT instead of *")
    promised = [name for name in contract.column_names if name != RUN_TIMESTAMP]
    for name in columns:
        if columns.count(name) > 1:
            raise wrong(f"gives column {name} twice", line_of(name))
        if name not in promised and name != DROP_REASON:
            raise wrong(
                f"gives column {name!r}, which its contract does not have; add it there or remove it", line_of(name)
            )
    for name in promised:
        if name not in columns:
            raise wrong(f"does not give column {name} of its contract; add it or remove it there")

    spans = _spans(tree, text, wrong)
    inputs = sorted({name for _, _, name in spans} - PARAMETERS)
    return Select(text, tree, spans, tuple(inputs), tuple(columns))


def _parse(text: str, wrong: Callable[..., ContractError]) -> exp.Expr:
    """The one statement or expression of a text."""
    try:
        trees = [tree for tree in sqlglot.parse(text, dialect="spark") if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        told = error.errors if isinstance(error, sqlglot.errors.ParseError) else []
        first = told[0] if told else {}
        what = str(first.get("description") or error).splitlines()[0]
        raise wrong(f"does not parse: {what}", first.get("line")) from None
    if len(trees) != 1:
        raise wrong("must be exactly one SELECT")
    return trees[0]


def _not_repeatable(tree: exp.Expr) -> str | None:
    """The first function in a query that gives something else the next time, as it is usually written."""
    for node in tree.find_all(exp.Func):
        name = node.name.lower() if isinstance(node, exp.Anonymous) else node.sql_name().lower()
        if isinstance(node, _NOT_REPEATABLE) or name in _NOT_REPEATABLE_NAMES:
            return str(name)
    return None


def _spans(
    tree: exp.Expr, text: str, wrong: Callable[..., ContractError], extra: tuple[str, ...] = ()
) -> tuple[tuple[int, int, str], ...]:
    """Where tables and parameters are named in a text. `extra`: names without a schema that stand for tables."""
    ctes = {cte.alias for cte in tree.find_all(exp.CTE)}
    spans = []
    for node in tree.find_all(exp.Table):
        line = node.this.meta.get("line")
        if not node.db and node.name in ctes:
            continue
        if not node.db and node.name not in extra:
            raise wrong(f"{node.name} is neither a table (write schema.table) nor defined in WITH", line)
        if node.catalog:
            raise wrong(f"{node.sql()}: write schema.table without a catalog", line)
        if bool(node.alias) != bool(node.db):
            raise wrong(f"give {node.sql()} an alias" if node.db else f"{node.name} has no other alias", line)
        first = node.args["db"] if node.db else node.this
        name = f"{node.db}.{node.name}" if node.db else node.name
        spans.append((first.meta["start"], node.this.meta["end"] + 1, name))
    tokens = sqlglot.tokenize(text, dialect="spark")
    for colon, parameter in pairwise(tokens):
        if colon.token_type == TokenType.COLON and parameter.text in PARAMETERS:
            spans.append((colon.start, parameter.end + 1, parameter.text))
    return tuple(spans)


@cache
def select(table: str) -> Select:
    """The SELECT of a table that we build. Its inputs all have contracts, and its contract's `reads` are among them."""
    contract = contracts.get(table)
    found = parse_select(contracts.read_text(contract.select_path), contract)
    shown = settings.shown(contract.select_path)
    for name in found.inputs:
        if name in contracts.load_all().broken:
            contracts.get(name)
        if name not in contracts.load_all():
            raise ContractError(
                f"{shown}: reads {name}, which has no contract; write include/sql/{name.replace('.', '/')}.yaml"
            )
    for name, _ in contract.reads:
        if name not in found.inputs or not contracts.get(name).day_column:
            raise ContractError(
                f"{settings.shown(contract.path)}: `reads` names {name}, which is not an input with days"
            )
    return found


@cache
def parsed_checks(table: str) -> tuple[ParsedCheck, ...]:
    """The checks of a table that we build, in the order of its contract; ContractError names the one that is wrong."""
    contract = contracts.get(table)
    readable = {THIS, table, *inputs(table)}
    found = []
    for check in contract.checks:

        def wrong(what: str, line: int | None = None, sql: str = check.sql) -> ContractError:
            return ContractError(f"{settings.shown(contract.path)}: check `{' '.join(sql.split())}`: {what}")

        tree = _parse(check.sql, wrong)
        if _not_repeatable(tree):
            raise wrong("two builds of the same rows must pass or fail alike; use :start_date and :end_date")
        if isinstance(tree, exp.Query):
            spans = _spans(tree, check.sql, wrong, (THIS,))
            if unread := sorted({name for _, _, name in spans} - PARAMETERS - readable):
                raise wrong(f"reads {', '.join(unread)}; there are {', '.join(sorted(readable))}")
            found.append(ParsedCheck(check.sql, tree, spans, "select", check.severity))
        else:
            if tree.find(exp.Query):
                raise wrong("a check with a query in it is a SELECT that gives the rows that break it")
            kind = "day" if tree.find(exp.AggFunc) and not tree.find(exp.Window) else "row"
            found.append(ParsedCheck(check.sql, tree, (), kind, check.severity))
    return tuple(found)


def inputs(table: str) -> tuple[str, ...]:
    """The tables that a build of `table` reads, sorted; none for a source."""
    return () if contracts.get(table).is_source else select(table).inputs


def in_order(tables: list[str] | None = None) -> list[str]:
    """Tables (all good ones by default) so that each comes after its inputs; always the same order.

    ContractError if one of `tables` is broken or stands on one that is.
    """
    order, broken = _survey(tables)
    for name in tables or ():
        if name in broken:
            raise ContractError(broken[name])
    return [name for name in order if tables is None or name in tables]


def broken() -> dict[str, str]:
    """Table -> what is wrong, of those that `in_order()` leaves out: in their files, or in what they stand on."""
    return _survey()[1]


def _survey(tables: list[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """The good ones of `tables` and of all that they stand on, in order, and by table what is wrong with the others."""
    broken = dict(contracts.load_all().broken)
    reads: dict[str, tuple[str, ...]] = {}
    todo = list(contracts.load_all() if tables is None else tables)
    while todo:
        name = todo.pop()
        if name in reads or name in broken:
            continue
        try:
            reads[name] = inputs(name)
            todo += reads[name]
            parsed_checks(name)
            readiness.parsed_ready_when(name)
        except LakeError as error:
            broken[name] = str(error)
        except Exception as error:  # a parser that gives up, on nesting of a thousand levels for example
            shown = settings.shown(contracts.get(name).select_path)
            broken[name] = f"{shown}: cannot be read: {type(error).__name__}: {error}"
    sorter = TopologicalSorter(reads)
    with suppress(CycleError):  # what is in a circle, or stands on one, is never ready
        sorter.prepare()
    order: list[str] = []
    while ready := sorted(sorter.get_ready()):
        order += ready
        sorter.done(*ready)
    for name in order:
        if above := sorted(broken.keys() & set(reads.get(name, ()))):
            broken.setdefault(name, broken[above[0]])
    for name in sorted(reads.keys() - set(order)):
        broken.setdefault(name, _circle(name, reads))
    return [name for name in order if name not in broken], broken


def _circle(table: str, reads: dict[str, tuple[str, ...]]) -> str:
    """The circle of SELECTs that `table` is in or stands on."""
    below: dict[str, tuple[str, ...]] = {}
    todo = [table]
    while todo:
        if (name := todo.pop()) not in below:
            below[name] = reads.get(name, ())
            todo += below[name]
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        circle = error.args[1][1:]
        first = circle.index(min(circle))  # the same words, whoever asks
        circle = [*circle[first:], *circle[:first], circle[first]]
        shown = settings.shown(contracts.get(circle[0]).select_path)
        return f"{shown}: the SELECTs read each other in a circle: {' -> '.join(circle)}"
    raise AssertionError(f"{table} is in no circle")


def upstream(tables: list[str]) -> list[str]:
    """`tables` and every built table that they stand on, in order; sources are left out."""
    found: set[str] = set()
    todo = list(tables)
    while todo:
        name = todo.pop()
        if name not in found and not contracts.get(name).is_source:
            found.add(name)
            todo += inputs(name)
    return in_order(sorted(found))


@cache
def code_id(table: str) -> str:
    """16 hex digits that change when what the table means changes, and not for comments, formatting or field order."""
    contract = contracts.get(table)
    meaning = {
        "select": select(table).meaning(),
        "columns": sorted((c.name, c.type, c.nullable) for c in contract.columns),
        "key": sorted(contract.key),
        "partitioned_by": contract.partitioned_by,
        "checks": sorted((check.meaning(), check.severity) for check in parsed_checks(table)),
        "reads": contract.reads,
    }
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:16]
