"""`ready_when`: what must be true of the rows of a source's day before the day counts as there.

It is written in Spark's SQL like everything else, and evaluated without Spark. So only what all engines compute alike
is let through: aggregates, comparisons, plain arithmetic and `case`.
"""

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
    return _parsed(contract.ready_when, tuple(contract.column_names), contract.path)


@cache
def _parsed(sql: str, columns: tuple[str, ...], path: Path) -> exp.Expr:
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
        if column.table or column.name not in columns:
            raise wrong(f"names {column.sql()}, which is not a column of the contract")
        if not column.find_ancestor(*_AGGREGATES, exp.Filter):
            raise wrong(f"names {column.name} outside an aggregate: write max({column.name}) or the like")
    for aggregate in tree.find_all(*_AGGREGATES):
        around = aggregate.find_ancestor(*_AGGREGATES, exp.Filter)
        if around and (around.this is not aggregate or isinstance(around, _AGGREGATES)):
            raise wrong(f"has `{aggregate.sql(dialect='spark')}` in another aggregate")
    return tree
