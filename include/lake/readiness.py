"""`ready_when` of a contract, parsed."""

import sqlglot
from sqlglot import exp

from include.lake import contracts


def parsed_ready_when(table: str) -> exp.Expr | None:
    text = contracts.get(table).ready_when
    return sqlglot.parse_one(text, dialect="spark") if text else None
