"""What the SELECTs say: the tables they read, the columns they give, and an id of their meaning.

It does not import sqlglot, which takes a tenth of a second: a parse of the DAGs finds the answers kept. See selects.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.lake.project import current, periods
from include.lake.project.days import parse_day

if TYPE_CHECKING:
    from include.lake.project.columns import Relation

PARAMETERS = {"start_date", "end_date"}
# In a check: the rows that would be published.
THIS = "this"
# In `touched_by` of a contract: the rows of an input that came or went, and the keys that a build computes.
CHANGED, TOUCHED = "changed", "touched"
# In the SELECT of a table kept by key: its own rows of these keys, as they are published.
PUBLISHED = "published"
# What we add to a query begins so: no contract can have such a name, and no query may.
OURS = "__lake_"


@dataclass(frozen=True)
class Template:
    """A query over tables and days that was found good. `spans`: where in it (from, to) a table or parameter is named.

    It keeps no tree: what is plain can be kept on disk (see kept.py).
    """

    text: str
    spans: tuple[tuple[int, int, str], ...]

    def meaning(self) -> str:
        """The query without comments and formatting. Not needed, and so not made, when DAGs are parsed."""
        from include.lake.project import selects  # it imports sqlglot

        return selects.meaning(self.text)

    def over_views(self, start: str, end: str, view_of: Callable[[str], str] | None = None) -> str:
        """The text for start..end, with every table replaced by its view (its `view_name`). Nothing else is touched.

        The days are written into it and not bound: Delta's parser loses the `args` of spark.sql() on Spark 4.1 and
        later (delta-io/delta#7640). What `parse_day` lets through cannot be anything but a day.
        """
        days = {"start_date": f"'{parse_day(start)}'", "end_date": f"'{parse_day(end)}'"}
        text = self.text
        for begins, ends, name in sorted(self.spans, reverse=True):
            # A table has an alias of its own; `this`, `changed` and `touched` are known by these names.
            view = (view_of or view_name)(name)
            view = view if "." in name else f"{view} as {name}"
            text = text[:begins] + days.get(name, view) + text[ends:]
        return text


@dataclass(frozen=True)
class Select(Template):
    """A SELECT as the runner needs it. `inputs`: the tables it reads; `columns`: what it gives."""

    inputs: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def reads_published(self) -> bool:
        return self.mentions(PUBLISHED) > 0

    def mentions(self, table: str) -> int:
        """How often the SELECT names a table."""
        return sum(name == table for _, _, name in self.spans)


@dataclass(frozen=True)
class ParsedCheck(Template):
    """A check of a contract. `kind`: `row`, `day` (it has aggregates) or `select` (it gives the rows that break it).

    `gives`: what a SELECT gives, with what derives from sensitive columns; None where that cannot be known.
    `doubles`: columns that may be NaN, and must not be where this check reads them.
    """

    kind: str
    severity: str
    gives: "Relation"
    doubles: tuple[str, ...]

    @property
    def name(self) -> str:
        return " ".join(self.text.split())


@dataclass(frozen=True)
class TouchedBy:
    """How the rows of an input reach the keys of a table; see `contracts.Touch`."""

    keys: Template
    rows: Template | None


def view_name(table: str) -> str:
    """The session view that stands for a table at one version while a build runs; no two tables share one."""
    schema, _, name = table.rpartition(".")
    return f"{OURS}{len(schema)}_{schema}_{name}"


def plain_select(select: Select) -> list[Any]:
    """A SELECT without its text, as JSON takes it."""
    return [select.spans, select.inputs, select.columns]


def restored_select(text: str, plain: list[Any]) -> Select:
    spans, inputs, columns = plain
    return Select(text, tuple(map(tuple, spans)), tuple(inputs), tuple(columns))


def plain_checks(checks: tuple[ParsedCheck, ...]) -> list[list[Any]]:
    """Checks as JSON takes them."""
    return [[check.text, check.spans, check.kind, check.severity, check.gives, check.doubles] for check in checks]


def restored_checks(plain: list[list[Any]]) -> tuple[ParsedCheck, ...]:
    return tuple(
        ParsedCheck(
            text, tuple(map(tuple, spans)), kind, severity,
            None if gives is None else [(name, hidden) for name, hidden in gives], tuple(doubles),
        )
        for text, spans, kind, severity, gives, doubles in plain
    )  # fmt: skip


def plain_touches(touches: dict[str, TouchedBy]) -> list[list[Any]]:
    """As JSON takes them."""
    return [
        [name, *([one.text, one.spans] if one else None for one in (touch.keys, touch.rows))]
        for name, touch in touches.items()
    ]


def restored_touches(plain: list[list[Any]]) -> dict[str, TouchedBy]:
    def template(parts: list[Any]) -> Template:
        return Template(parts[0], tuple(map(tuple, parts[1])))

    return {name: TouchedBy(template(keys), rows and template(rows)) for name, keys, rows in plain}


# -- of the project as it is now


def select(table: str) -> Select:
    """The SELECT of a table that we build. Its inputs all have contracts, and its contract's `reads` are among them."""
    return current.project().select(table)


def parsed_checks(table: str) -> tuple[ParsedCheck, ...]:
    """The checks of a table that we build, in the order of its contract; ContractError names the one that is wrong."""
    return current.project().checks(table)


def touches(table: str) -> dict[str, TouchedBy]:
    """Input with days -> how its rows reach the keys of a table kept by key."""
    return current.project().touches(table)


def inputs(table: str) -> tuple[str, ...]:
    """The tables that a build of `table` reads, sorted; none for a source."""
    return current.project().inputs(table)


def days_read(table: str, start: str, end: str) -> dict[str, tuple[str, str]]:
    """Input with days -> the first and the last partition that a build of start..end reads; '' is before all days.

    The SELECT sees no others: what it read of them could change, and its rows would stay fresh.
    """
    contract = current.project().contract(table)
    if contract.kept_by or contract.view:
        return {}
    earlier, found = dict(contract.reads), {}
    for name in inputs(table):
        if (of := current.project().contract(name)).day_column:
            last = periods.read_of(contract.grain, end, of.grain)[-1]
            before = earlier.get(name, 0)
            first = "" if before == "all" else periods.read_of(contract.grain, start, of.grain, int(before))[0]
            found[name] = first, last
    return found


def in_order(tables: list[str] | None = None) -> list[str]:
    """Tables (all good ones by default) so that each comes after its inputs; always the same order.

    ContractError if one of `tables` is broken or stands on one that is.
    """
    project = current.project()
    return list(project.order) if tables is None else project.in_order(tables)


def broken() -> dict[str, str]:
    """Table -> what is wrong, of those that `in_order()` leaves out: in their files, or in what they stand on."""
    return current.project().broken


def upstream(tables: list[str]) -> list[str]:
    """`tables` and every built table that they stand on, in order; sources are left out."""
    return current.project().upstream(tables)


def code_id(table: str) -> str:
    """16 hex digits that change when the rows of the table change by its files; see `Project.code_id`."""
    return current.project().code_id(table)


def checks_id(table: str) -> str:
    """16 hex digits that change with `code_id` and with whatever a build checks; see `Project.checks_id`."""
    return current.project().checks_id(table)
