"""`ready_when`: what must be true of the rows of a source's day before the day counts as there.

It is written in Spark's SQL like everything else, and evaluated without Spark. So only what all engines compute alike
is let through: aggregates, comparisons, plain arithmetic and `case`.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sqlglot
from sqlglot import exp

from include.lake.errors import ContractError
from include.lake.project import contracts
from include.lake.project.contracts import Contract

_AGGREGATES = (exp.Count, exp.Min, exp.Max, exp.Sum, exp.Avg)
_PREDICATES = (
    exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Is, exp.Like, exp.And, exp.Or, exp.Not,
)  # fmt: skip
_OTHERS = (
    exp.Column, exp.Identifier, exp.Star, exp.Distinct, exp.Filter, exp.Where, exp.Literal, exp.Boolean, exp.Null,
    exp.Paren, exp.Neg, exp.Add, exp.Sub, exp.Mul, exp.Case, exp.If, exp.Coalesce,
)  # fmt: skip
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between)
# What a text must look like to be compared with a column of a type; with other texts every day of the source fails.
_WHOLE, _DATE = re.compile(r"[+-]?\d+"), re.compile(r"\d{4}-\d{1,2}-\d{1,2}.*")
_TEXTS = {
    "tinyint": _WHOLE, "int": _WHOLE, "bigint": _WHOLE, "double": re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE),
    "date": _DATE, "timestamp": _DATE,
}  # fmt: skip
_NUMBERS = ("tinyint", "int", "bigint", "double")
_TEXT, _NUMBER = "a text", "a number"
_ALLOWED = "write aggregates (count, min, max, sum, avg), comparisons, and, or, not, + - * and case only"


def parsed_ready_when(table: str) -> exp.Expr | None:
    """The tree of a table's `ready_when`, None without one; ContractError names file and line of what is wrong.

    Write it as SQL of another engine with `.sql(dialect=…)`: Spark's "text" in double quotes is a column elsewhere.
    """
    return ready_when_of(contracts.get(table))


def ready_when_of(contract: Contract) -> exp.Expr | None:
    """The same of a contract."""
    if contract.ready_when is None:
        return None
    types = tuple((column.name, column.type) for column in contract.columns)
    return _parsed(contract.ready_when, types, contract.path)


@cache
def _parsed(sql: str, columns: tuple[tuple[str, str], ...], path: Path) -> exp.Expr:
    types = dict(columns)

    def wrong(message: str) -> ContractError:
        return ContractError(f"{contracts.place(path, 'ready_when')}: `ready_when` {message}")

    try:
        trees = sqlglot.parse(sql, dialect="spark")
    except sqlglot.errors.SqlglotError as error:
        raise wrong(f"does not parse: {str(error).splitlines()[0]}") from None
    if len(trees) != 1 or (tree := trees[0]) is None:
        raise wrong("must be one expression, such as max(hour) = '23'")
    for node in tree.walk():
        star = isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count)
        if star or not isinstance(node, _AGGREGATES + _PREDICATES + _OTHERS):
            raise wrong(f"has `{node.sql(dialect='spark')}`: {_ALLOWED}")
    if not isinstance(tree.unnest(), _PREDICATES):
        raise wrong("must be true or false: compare something, such as max(hour) = '23'")
    if not tree.find(*_AGGREGATES):
        raise wrong("has no aggregate: it speaks of all rows of a day, such as max(hour) = '23'")
    for column in tree.find_all(exp.Column):
        if column.table or column.name not in types:
            raise wrong(f"names {column.sql()}, which is not a column of the contract")
        if not column.find_ancestor(*_AGGREGATES, exp.Filter):
            raise wrong(f"names {column.name} outside an aggregate: write max({column.name}) or the like")
    for aggregate in tree.find_all(*_AGGREGATES):
        around = aggregate.find_ancestor(*_AGGREGATES, exp.Filter)
        if around and (around.this is not aggregate or isinstance(around, _AGGREGATES)):
            raise wrong(f"has `{aggregate.sql(dialect='spark')}` in another aggregate")
    for problem in _misfits(tree, types):
        raise wrong(problem)
    return tree


def _misfits(tree: exp.Expr, types: dict[str, str]) -> Iterator[str]:
    """What no engine computes of columns of these types, as far as a glance shows it."""
    for total in tree.find_all(exp.Sum, exp.Avg):
        if (kind := _type(total.this, types)) and kind not in (*_NUMBERS, _NUMBER):
            yield f"has `{total.sql(dialect='spark')}` of {kind}: sum and avg take numbers"
    for term in tree.find_all(exp.Add, exp.Sub, exp.Mul, exp.Neg):
        for operand in term.iter_expressions():
            if (kind := _type(operand, types)) in ("string", "boolean", _TEXT):
                yield f"computes with `{operand.sql(dialect='spark')}`, {kind}: + - * take numbers"
    for comparison in tree.find_all(*_COMPARISONS):
        sides = list(comparison.iter_expressions())
        for literal in (side for side in sides if isinstance(side, exp.Literal)):
            for side in sides:
                kind = _type(side, types)
                if kind == "boolean" or (
                    literal.is_string and kind in _TEXTS and not _TEXTS[kind].fullmatch(literal.name.strip())
                ):
                    value = literal.sql(dialect="spark")
                    yield f"compares `{side.sql(dialect='spark')}`, {kind}, with {value}: write a value of this type"


def _type(node: exp.Expr, types: dict[str, str]) -> str | None:
    """The type of a part; None where it is not known at a glance."""
    if isinstance(node, exp.Literal):
        return _TEXT if node.is_string else _NUMBER
    if isinstance(node, exp.Column):
        return types.get(node.name)
    if isinstance(node, exp.Count):
        return "bigint"
    if isinstance(node, exp.Avg):
        return "double"
    if isinstance(node, (exp.Min, exp.Max, exp.Sum, exp.Filter, exp.Paren, exp.Neg)):
        return _type(node.this, types)
    return None
