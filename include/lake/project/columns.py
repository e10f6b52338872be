"""Which columns the parts of a query see: a misspelt one is found, and what derives from a sensitive one is known."""

import difflib
from collections.abc import Callable, Iterator

from sqlglot import exp

from include.lake.errors import ContractError

# What a table or query gives: (name in lower case, does it derive from a sensitive column); None: cannot be known.
# A column without a name of its own is "".
Relation = list[tuple[str, bool]] | None
_Scope = dict[str, Relation]


class Reader:
    """Reads queries over `tables`; ContractError (made by `wrong`) for a column that none of them has."""

    def __init__(self, tables: dict[str, Relation], wrong: Callable[[str], ContractError]) -> None:
        self._tables, self._wrong = tables, wrong

    def gives(self, query: exp.Expr, ctes: _Scope | None = None, outer: tuple[_Scope, ...] = ()) -> Relation:
        """What a query gives. `outer`: the tables of the queries around it, the nearest first."""
        ctes = dict(ctes or {})
        for cte in query.args["with_"].expressions if query.args.get("with_") else ():
            ctes[cte.alias.lower()] = _renamed(self.gives(cte.this, ctes, outer), cte)
        if isinstance(query, exp.Subquery):
            return self.gives(query.this, ctes, outer)
        if isinstance(query, exp.SetOperation):
            sides = [self.gives(side, ctes, outer) for side in (query.left, query.right)]
            if sides[0] is None or sides[1] is None:
                return None
            # Which column of the one side meets which of the other is not looked at.
            return [(name, any(hidden for side in sides for _, hidden in side or ())) for name, _ in sides[0]]
        return self._select(query, ctes, outer) if isinstance(query, exp.Select) else None

    def check(self, expression: exp.Expr, scope: _Scope) -> None:
        """Look at the columns of an expression that stands alone."""
        self._hidden(expression, {}, (scope,), {})

    def _select(self, select: exp.Select, ctes: _Scope, outer: tuple[_Scope, ...]) -> Relation:
        scope: _Scope = {}
        scopes = (scope, *outer)
        joins = select.args.get("joins") or []
        for source in [
            *([select.args["from_"].this] if select.args.get("from_") else []),
            *(join.this for join in joins),
        ]:
            scope[(source.alias_or_name or f"#{len(scope)}").lower()] = self._source(source, ctes, outer)
        for lateral in select.args.get("laterals") or []:
            hidden = self._hidden(lateral.this, ctes, scopes, {})
            names = lateral.args["alias"].columns if lateral.args.get("alias") else []
            scope[(lateral.alias or f"#{len(scope)}").lower()] = [(name.name.lower(), hidden) for name in names] or None

        found: Relation = []
        aliases: dict[str, bool] = {}
        for item in select.expressions:
            star = item if isinstance(item, exp.Star) else item.this if isinstance(item, exp.Column) else None
            if isinstance(star, exp.Star):
                sources = scope.values() if star is item else [scope.get(item.table.lower())]
                known = [source for source in sources if source is not None]
                plain = len(known) == len(sources) and not any(star.args.values())
                found = (
                    [*found, *(column for source in known for column in source)]
                    if plain and found is not None
                    else None
                )
                continue
            hidden = self._hidden(item, ctes, scopes, aliases)
            if isinstance(item, exp.Aliases):
                found = None  # a function that gives several columns
            elif found is not None:
                found.append((item.alias_or_name.lower(), hidden))
            aliases[item.alias_or_name.lower()] = hidden
        for name, clause in select.args.items():
            if name not in ("with_", "from_", "expressions", "laterals", "hint"):
                for part in clause if isinstance(clause, list) else [clause]:
                    if isinstance(part, exp.Join):
                        part = part.args.get("on")
                    if isinstance(part, exp.Expr):
                        self._hidden(part, ctes, scopes, aliases)
        return found

    def _source(self, source: exp.Expr, ctes: _Scope, outer: tuple[_Scope, ...]) -> Relation:
        if source.args.get("pivots"):
            return None
        if isinstance(source, exp.Table) and isinstance(source.this, exp.Identifier):
            name = f"{source.db}.{source.name}".strip(".").lower()
            return _renamed(ctes[name] if not source.db and name in ctes else self._tables.get(name), source)
        return _renamed(self.gives(source, ctes, outer), source) if isinstance(source, exp.Subquery) else None

    def _hidden(self, expression: exp.Expr, ctes: _Scope, scopes: tuple[_Scope, ...], aliases: dict[str, bool]) -> bool:
        """May the value of an expression derive from a sensitive column? All its columns are looked at."""
        hidden = False
        for node in _columns_and_queries(expression):
            if isinstance(node, exp.Star) or isinstance(node.this, exp.Star):
                # struct(*), to_json(struct(t.*)); a number of rows tells of no column
                sources = scopes[0].values() if not isinstance(node.parent, exp.Count) else ()
                hidden |= any(source is None or any(secret for _, secret in source) for source in sources)
            elif isinstance(node, exp.Column):
                hidden |= self._column(node, scopes, aliases)
            else:
                inner = self.gives(node, ctes, scopes)
                hidden |= inner is None or any(secret for _, secret in inner)
        return hidden

    def _column(self, column: exp.Column, scopes: tuple[_Scope, ...], aliases: dict[str, bool]) -> bool:
        """Is a column sensitive (or cannot that be known)?"""
        parts = [part.name.lower() for part in column.parts]
        names: list[str] = []
        for scope in scopes:
            if len(parts) > 1 and parts[0] in scope:
                source = scope[parts[0]]
                if source is None:
                    return True
                if found := [hidden for name, hidden in source if name == parts[1]]:
                    return any(found)
                names = [name for name, _ in source]
                raise self._wrong(f"{parts[0]} has no column {parts[1]}{_nearest(parts[1], names)}")
            # Not a table's: a column, or a field of a column that is a struct.
            if found := [hidden for source in scope.values() for name, hidden in source or () if name == parts[0]]:
                return any(found)
            if parts[0] in aliases:
                return aliases[parts[0]]
            if any(source is None for source in scope.values()):
                return True
            names += [name for source in scope.values() for name, _ in source or ()]
        raise self._wrong(f"there is no column {column.sql(dialect='spark')}{_nearest(parts[-1], names)}")


def _columns_and_queries(expression: exp.Expr) -> Iterator[exp.Expr]:
    """The columns and stars of an expression, and the queries in it, whose own columns are theirs."""
    if isinstance(expression, (exp.Column, exp.Star, exp.Query)):
        yield expression
    else:
        for child in expression.iter_expressions():
            yield from _columns_and_queries(child)


def _renamed(relation: Relation, source: exp.Expr) -> Relation:
    """`with t(a, b)`, `from … as t(a, b)`: the names that are given there."""
    alias = source.args.get("alias")
    names = alias.columns if isinstance(alias, exp.TableAlias) else []
    if not names or relation is None:
        return relation
    # A column that was added later stands last in its table, wherever the contract has it: order says nothing of it.
    return [(name.name.lower(), any(hidden for _, hidden in relation)) for name in names]


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted({*names} - {''}))}"
