"""Parses and checks SELECTs and checks of contracts, with sqlglot."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

import sqlglot
from sqlglot import Dialect, exp
from sqlglot.tokens import Token, TokenType

from include.lake import settings
from include.lake.errors import ContractError
from include.lake.project import columns, repeatable
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Contract, place
from include.lake.project.lineage import (
    CHANGED,
    OURS,
    PARAMETERS,
    PUBLISHED,
    THIS,
    TOUCHED,
    ParsedCheck,
    Select,
    Template,
    TouchedBy,
)


def meaning(text: str) -> str:
    """A query or expression without comments and formatting."""
    tree, tokens = _parse(text, ContractError)
    sql = tree.sql(dialect="spark", comments=False, normalize=True)
    # sqlglot leaves out a format that it takes for the default one, but to_date(a) reads more texts than with it.
    lost = _strings(tokens) - _strings(sqlglot.tokenize(sql, dialect="spark"))
    return " ".join([sql, *sorted(lost.elements())])


def _strings(tokens: list[Token]) -> Counter[str]:
    # In lower case: sqlglot writes units as it likes, such as date_trunc('SECOND', …).
    return Counter(token.text.lower() for token in tokens if token.token_type == TokenType.STRING)


def parse_select(text: str, contract: Contract) -> Select:
    """Parse and check a SELECT against its contract; ContractError names file, line and cure."""
    shown = settings.shown(contract.select_path)

    def wrong(what: str, line: int | None = None) -> ContractError:
        return ContractError(f"{shown}{f':{line}' if line else ''}: {what}")

    def line_of(needle: str) -> int | None:
        return next((n for n, content in enumerate(text.splitlines(), 1) if needle.lower() in content.lower()), None)

    tree, tokens = _parse(text, wrong)
    if not isinstance(tree, exp.Query):
        raise wrong("must be exactly one SELECT")
    if DROP_REASON in contract.column_names:
        raise wrong(f"{DROP_REASON} says why a row is not published; give that column of the contract another name")
    if RUN_TIMESTAMP in (*contract.key, *contract.partitioned_by):
        raise wrong(f"{RUN_TIMESTAMP} differs in every build; take it out of `key` and `partitioned_by`")
    _require_repeatable(tree, tokens, text, wrong)
    parameters = _parameters(tree, tokens, wrong)
    if contract.kept_by or contract.view:
        if parameters:
            kind = "a view" if contract.view else "a table kept by key"
            raise wrong(f"{kind} is of all days: remove :{sorted(parameters)[0]}")
    elif parameters != PARAMETERS:
        raise wrong("must restrict the days with both :start_date and :end_date (a day is a range of one)")

    columns = tree.named_selects
    if any(isinstance(node, exp.Star) for node in tree.selects) or "*" in columns:
        raise wrong("name the columns of the outer SELECT instead of *")
    for item in tree.selects:
        if not item.output_name and not isinstance(item, exp.Aliases):
            sql = item.sql(dialect="spark")
            raise wrong(f"gives {sql} without a name: give it one ({sql} as …)", line_of(sql))
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

    spans = _spans(tree, tokens, wrong, (PUBLISHED,) if contract.kept_by else ())
    inputs = sorted({name for _, _, name in spans} - PARAMETERS - {PUBLISHED})
    return Select(text, spans, tuple(inputs), tuple(columns))


def _parse(text: str, wrong: Callable[..., ContractError]) -> tuple[exp.Expr, list[Token]]:
    """The one statement or expression of a text, and its tokens."""
    dialect = Dialect.get_or_raise("spark")
    try:
        tokens = dialect.tokenize(text)
        trees = [tree for tree in dialect.parser().parse(tokens, text) if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        told = error.errors if isinstance(error, sqlglot.errors.ParseError) else []
        first = told[0] if told else {}
        what = str(first.get("description") or error).splitlines()[0]
        if "Required keyword" in what:  # it names a class of sqlglot
            what = "something is missing"
        near = f", near `{first['highlight']}`" if first.get("highlight") else ""
        raise wrong(f"does not parse: {what}{near}", first.get("line")) from None
    if len(trees) != 1:
        raise wrong("must be exactly one SELECT")
    for token in tokens:
        if token.text.lower().startswith(OURS) and token.token_type in (TokenType.VAR, TokenType.IDENTIFIER):
            raise wrong(f"{token.text}: names that begin with {OURS} are the runner's own; use another", token.line)
    return trees[0], tokens


def _require_repeatable(tree: exp.Expr, tokens: list[Token], text: str, wrong: Callable[..., ContractError]) -> None:
    if fault := repeatable.fault(tree, text, tokens):
        raise wrong(*fault)


def _parameters(tree: exp.Expr, tokens: list[Token], wrong: Callable[..., ContractError]) -> set[str]:
    """The parameters of a query or expression, all of them known."""
    names = {node.name for node in tree.find_all(exp.Placeholder, exp.Parameter)}
    for name in sorted(names - PARAMETERS):
        line = next((token.line for token in tokens if token.text == name), None)
        there = "there are :start_date and :end_date, and in a SELECT the names of _constants.yaml"
        raise wrong(f"unknown parameter :{name}; {there}", line)
    return names


def _spans(
    tree: exp.Expr, tokens: list[Token], wrong: Callable[..., ContractError], extra: tuple[str, ...] = ()
) -> tuple[tuple[int, int, str], ...]:
    """Where tables and parameters are named in a text. `extra`: names without a schema that stand for tables."""
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}  # Spark does not tell A from a
    for name in ctes & set(extra):
        raise wrong(f"WITH {name}: {name} has a meaning of its own here; use another name")
    spans = []
    for node in tree.find_all(exp.Table):
        line = node.this.meta.get("line")
        if not node.db and (node.name.lower() in ctes or not isinstance(node.this, exp.Identifier)):
            if node.alias.lower() in extra:
                raise wrong(f"{node.alias} has a meaning of its own here; use another alias", line)
            continue
        if not node.db and node.name not in extra:
            raise wrong(f"{node.name} is neither a table (write schema.table) nor defined in WITH", line)
        if node.catalog:
            raise wrong(f"{node.sql()}: write schema.table without a catalog", line)
        if bool(node.alias) != bool(node.db):
            raise wrong(f"give {node.sql()} an alias" if node.db else f"{node.name} has no other alias", line)
        if node.alias.lower() in extra:
            raise wrong(f"{node.alias} has a meaning of its own here; use another alias", line)
        first = node.args["db"] if node.db else node.this
        name = f"{node.db}.{node.name}" if node.db else node.name
        spans.append((first.meta["start"], node.this.meta["end"] + 1, name))
    for colon, parameter in pairwise(tokens):
        if colon.token_type == TokenType.COLON and parameter.text in PARAMETERS:
            spans.append((colon.start, parameter.end + 1, parameter.text))
    return tuple(spans)


def parse_checks(contract: Contract, inputs: list[Contract]) -> tuple[ParsedCheck, ...]:
    """The checks of a contract, in its order; ContractError names the one that is wrong."""
    relations: dict[str, columns.Relation] = {
        one.table: [(column.name, column.sensitive) for column in one.columns] for one in (contract, *inputs)
    }
    # The runner fills RUN_TIMESTAMP when it writes.
    relations[THIS] = [(c.name, c.sensitive) for c in contract.columns if c.name != RUN_TIMESTAMP]
    types = {column.name.lower(): column.type for column in contract.columns}
    found = []
    for number, check in enumerate(contract.checks):

        def wrong(what: str, line: int | None = None, sql: str = check.sql, number: int = number) -> ContractError:
            return ContractError(f"{place(contract.path, 'checks', number)}: check `{' '.join(sql.split())}`: {what}")

        tree, tokens = _parse(check.sql, wrong)
        _require_repeatable(tree, tokens, check.sql, wrong)
        _parameters(tree, tokens, wrong)
        spans = _spans(tree, tokens, wrong, (THIS,))
        reader, gives = columns.Reader(relations, wrong), None
        if isinstance(tree, exp.Query):
            kind = "select"
            if unread := sorted({name for _, _, name in spans} - PARAMETERS - relations.keys()):
                raise wrong(f"reads {', '.join(unread)}; there are {', '.join(sorted(relations))}")
            gives = reader.gives(tree)
        else:
            if tree.find(exp.Query):
                raise wrong("a check with a query in it is a SELECT that gives the rows that break it")
            if tree.find(exp.Window):
                raise wrong("a check with a window is a SELECT that gives the rows that break it")
            kind = "day" if any(map(_is_aggregate, tree.walk())) else "row"
            reader.check(tree, {"": relations[THIS]})
            if isinstance(tree, exp.Column) and types.get(tree.name.lower()) not in ("boolean", None):
                raise wrong(f"is a column and no condition: write one, such as `{tree.name} is not null`")
        found.append(ParsedCheck(check.sql, spans, kind, check.severity, gives, _doubles(tree, contract)))
    return tuple(found)


def parse_touches(contract: Contract, inputs: list[Contract]) -> dict[str, TouchedBy]:
    """How the rows of each input with days reach the keys; ContractError names what is wrong or missing."""
    written = dict(contract.touched_by)
    keys = ", ".join(contract.kept_by)
    found = {}
    for one in inputs:
        if not one.has_days:
            continue
        if one.grain != contract.grain:
            raise ContractError(
                f"{place(contract.path, 'kept_by')}: {one.table} has {one.grain}s, and a table kept by key takes in "
                "days: read what it is made of"
            )
        touch = written.pop(one.table, None)
        if touch is None and not set(contract.kept_by) <= set(one.column_names):
            raise ContractError(
                f"{place(contract.path, 'touched_by')}: {one.table} has no {keys}: write in `touched_by` which keys "
                f"its rows touch, such as {{{one.table}: {{keys: select … as {contract.kept_by[0]} from changed}}}}"
            )
        same = " and ".join(f"needed.`{name}` = touched.`{name}`" for name in contract.kept_by)
        of_changed = ", ".join(f"changed.`{name}`" for name in contract.kept_by)
        texts = (
            (touch.keys, touch.rows)
            if touch
            else (
                f"select {of_changed} from changed",
                f"select needed.* from {one.table} as needed left semi join touched on {same}",
            )
        )
        found[one.table] = TouchedBy(
            _touch(contract, inputs, one.table, "keys", texts[0], CHANGED, one.column_names),
            _touch(contract, inputs, one.table, "rows", texts[1], TOUCHED, contract.kept_by) if texts[1] else None,
        )
    if not found:
        raise ContractError(
            f"{place(contract.path, 'kept_by')}: a table kept by key takes in the days of an input, and none has days: "
            "read such an input, too, or make the table a view"
        )
    if written:
        name = sorted(written)[0]
        raise ContractError(
            f"{place(contract.path, 'touched_by', name)}: `touched_by` names {name}, which is no input with days"
        )
    return found


def _touch(
    contract: Contract,
    inputs: list[Contract],
    name: str,
    part: str,
    text: str,
    extra: str,
    columns_of_extra: Iterable[str],
) -> Template:
    relations: dict[str, columns.Relation] = {
        name: [(column, False) for column in names]
        for name, names in [(extra, columns_of_extra), *((one.table, one.column_names) for one in inputs)]
    }

    def wrong(what: str, line: int | None = None) -> ContractError:
        where = place(contract.path, "touched_by", name, part)
        return ContractError(f"{where}: `touched_by` of {name}, `{part}`: {what}")

    tree, tokens = _parse(text, wrong)
    if not isinstance(tree, exp.Query):
        raise wrong("must be exactly one SELECT")
    _require_repeatable(tree, tokens, text, wrong)
    _parameters(tree, tokens, wrong)
    spans = _spans(tree, tokens, wrong, (extra,))
    if unread := sorted({name for _, _, name in spans} - PARAMETERS - relations.keys()):
        raise wrong(f"reads {', '.join(unread)}; there are {', '.join(sorted(relations))}")
    columns.Reader(relations, wrong).gives(tree)  # the first builds compute all keys, without this query
    if part == "keys" and set(tree.named_selects) != set(contract.kept_by):
        raise wrong(f"must give exactly the columns {', '.join(contract.kept_by)}")
    return Template(text, spans)


def _is_aggregate(node: exp.Expr) -> bool:
    if isinstance(node, exp.Any):  # x like any (…) is none
        return not isinstance(node.parent, (exp.Binary, exp.Like, exp.ILike))
    return isinstance(node, exp.AggFunc) or (
        isinstance(node, exp.Anonymous) and node.name.lower() in repeatable.MORE_AGGREGATES
    )


def _doubles(tree: exp.Expr, contract: Contract) -> tuple[str, ...]:
    """The columns of doubles that a check reads without asking isnan() or nanvl() of them."""

    def names(node: exp.Expr) -> set[str]:
        return {column.name.lower() for column in node.find_all(exp.Column)}

    asked = set()
    for node in tree.find_all(exp.Func):
        if (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower() in ("isnan", "is_nan", "nanvl"):
            asked |= names(node)
            of_elements = node.find_ancestor(exp.Lambda)  # forall(amounts, x -> not isnan(x))
            if of_elements and of_elements.parent:
                asked |= names(of_elements.parent)
    return tuple(c.name for c in contract.columns if "double" in c.type and c.name in names(tree) - asked)
