"""Contracts: one YAML file per table, include/sql/<schema>/<table>.yaml, beside its SELECT <table>.sql.

A contract without a SELECT is a source. With a `key` and a line in a task list it is wrong: its SELECT is missing. The
fields are those of `Contract`; what can be derived is not a field.
A wrong file breaks its table and no other: it is kept among the broken ones, with file, line and cure.
"""

import re
import reprlib
from collections.abc import Hashable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from include.lake import settings
from include.lake.errors import ContractError, UsageError
from include.lake.project.periods import Grain

# A name becomes a part of views, folders and task ids: twice this length and a prefix fit into 250 characters.
_MAX_NAME = 100
_NAME = rf"[a-z][a-z0-9_]{{0,{_MAX_NAME - 1}}}"
_TABLE = re.compile(rf"{_NAME}\.{_NAME}")
_TYPE = "string|tinyint|int|bigint|double|boolean|date|timestamp"
# Spark reads these as values even where a column has the name, and does not say so.
_VALUES_OF_SQL = {
    "true", "false", "null", "current_date", "current_timestamp", "current_time", "current_user", "session_user",
}  # fmt: skip
# Who keeps count of the builds: no table of the project can have this name.
LEDGER = "ops.partition_build"

# The one column that the runner fills: the UTC start of the build, the same for every row of it.
RUN_TIMESTAMP = "run_timestamp"
# A SELECT may give this column: a row with a reason in it is counted under that reason and not published.
DROP_REASON = "drop_reason"
# The names of partition columns that are no days. A name says it, so that no field of a contract has to.
_GRAINS: dict[str, Grain] = {"part_week": "week", "part_month": "month"}
# Hours that a sensor waits for a day of a table whose contract does not say: until the next day's run takes over.
DEFAULT_PATIENCE_HOURS = 20
# The files of a table can lie near by few columns at once: each further one makes the others worse.
_MAX_CLUSTERED = 4
# A year. More is a slip of the finger, and Airflow's dates end somewhere.
_MAX_HOURS = 366 * 24


def _as_tuple(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


def _as_pairs(value: Any) -> Any:
    return tuple(value.items()) if type(value) is dict else value


def _as_check(value: Any) -> Any:
    """A check as it is written: SQL, or {severity: SQL}."""
    if isinstance(value, str):
        return {"sql": value}
    if type(value) is dict and len(value) == 1:
        ((severity, sql),) = value.items()
        return {"sql": sql, "severity": severity}
    return None


_List = BeforeValidator(_as_tuple)
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Name = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
_TableName = Annotated[str, StringConstraints(pattern=f"^{_TABLE.pattern}$")]
_Earlier = Annotated[int, Field(gt=0)] | Literal["all"]
_Hours = Annotated[float, Field(gt=0, le=_MAX_HOURS, allow_inf_nan=False)]
_IN_HOURS = f"a number of hours above 0 and up to {_MAX_HOURS:,} (a year)"


class _Strict(BaseModel):
    """What a file says and nothing else: no unknown field, and no text that stands for a number or a truth.

    The description of a field completes the sentence "write …" of an error message.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Column(_Strict):
    """One column. `nullable`: may a row have no value here (by default: yes, but for key and day columns).

    `sensitive`: its values are masked where rows are shown that failed a check.
    `named`: of a source: what files call the column, if it is another name, such as sessionId for session_id.
    `unit`: of a timestamp of a source: what a number in a file counts, and since when: ms since 1970 (UTC).
    """

    name: _Name = Field(
        description=f"a name of a-z, 0-9 and _ that begins with a letter, at most {_MAX_NAME} characters"
    )
    type: Annotated[str, StringConstraints(pattern=f"^(({_TYPE})|array<({_TYPE})>)$")] = Field(
        description=f"one of {_TYPE.replace('|', ', ')}, or array<one of them>"
    )
    comment: str = Field(default="", description="a text (in quotes where YAML reads something else)")
    nullable: bool = Field(default=True, description="true or false (without quotes)")
    sensitive: bool = Field(default=False, description="true or false (without quotes)")
    named: _Text | None = Field(default=None, description="the name of the column in files, a text")
    unit: Literal["ms"] | None = Field(default=None, description="ms: numbers are milliseconds since 1970 (UTC)")


class Check(_Strict):
    """A promise about the rows of a build. `severity`: `fail` publishes nothing, `warn` publishes and says so."""

    sql: _Text
    severity: Literal["fail", "warn"] = "fail"


class Touch(_Strict):
    """How the rows of an input reach the keys of a table kept by key.

    keys: a SELECT of the keys that are touched, from `changed`: the rows of the input that came or went.
    rows: a SELECT of the rows of the input that the keys in `touched` need; all of them without it.
    """

    keys: _Text = Field(description="a SELECT of the keys that the rows in `changed` touch")
    rows: _Text | None = Field(default=None, description="a SELECT of the rows that the keys in `touched` need")


class Vault(_Strict):
    """A table of a Data Vault. Its SELECT, `key`, `kept_by` and `touched_by` follow from this and from its columns.

    The first column of the table is its hash key, the last two are load_date and record_source.

    hub: the business keys, which are columns of the stage. link, transactional_link: the hubs that it joins, tables of
    the same schema. satellite: the hub that it describes; its payload are the columns between key and effective_from.
    stage: the table of days with the events; it has all business keys, the payloads, event_ts and record_source.
    sources: those record sources whose events count, all by default. In a satellite the first listed wins
        where two events have the same time.
    optional: of a link: those of its hubs that an event may lack. Without one of the others it gives no row.
    implied_by: of a transactional link: a source whose first event stands for those of a key of the first hub, where no
        other source has one.
    """

    hub: Annotated[tuple[_Name, ...] | None, _List] = Field(default=None, description="a list of the business keys")
    link: Annotated[tuple[_Name, ...] | None, _List] = Field(default=None, description="a list of hubs")
    satellite: _Name | None = Field(default=None, description="the hub that it describes")
    transactional_link: Annotated[tuple[_Name, ...] | None, _List] = Field(default=None, description="a list of hubs")
    stage: _TableName = Field(description="the table of days with the events, such as audio_vault.stage_events")
    sources: Annotated[tuple[_Name, ...], _List] = Field(default=(), description="a list of record sources")
    optional: Annotated[tuple[_Name, ...], _List] = Field(default=(), description="a list of some of its hubs")
    implied_by: _Name | None = Field(default=None, description="one of `sources`")


class Contract(_Strict):
    """What a table promises. `table` and `path` come from where the file is, the rest are the fields of the file.

    about: one or more sentences for people: what a row is, and every choice an analyst should know.
    key: columns that together occur once a day (a null counts as a value); empty where rows may repeat.
    partitioned_by: the partition column is the last one; empty for a source that has no days. The column part_week has
        the Monday of a week, part_month has yyyy-MM, any other name has days.
    kept_by: of a table of the whole history: a build replaces all rows of the keys (values of these columns) that its
        days touch. Then `key` is unique in the whole table, and `partitioned_by` only says where a row lies: at best a
        day that stays, such as that of an event, so that a build rewrites few files.
    touched_by: input -> which keys its rows touch; not needed for an input that has the columns of `kept_by` itself.
    clustered_by: columns by which readers choose rows: the weekly maintenance lays rows with near values of them into
        the same files.
    columns: name, type and the other fields of `Column`, in order.
    checks: SQL that must hold before anything is published: an expression that is true of every row, or with aggregates
        (`count(*) > 0`) of every day, or a SELECT that gives the rows that break it: from `this` (what would be
        published), the table's inputs, and the table itself (as it is published now). `{warn: …}` only reports.
        What is null does not hold. For Spark NaN is larger than any number: so a column of doubles that a check
        reads must not be NaN, unless the check asks isnan() or nanvl() of it. :start_date and :end_date are the
        days of the build.
    reads: earlier days that the SELECT reads of an input: a number of days, or `all`; the day alone where not listed.
        A build shows it no others.
    patience_hours: how long a sensor waits for a day of this table.
    ready_when: of a source: SQL with aggregates over the rows of a day (`max(hour) = '23'`) that is true once the day
        is complete; without it a day is there with its first row.
    empty_after: of a source: hours after the end of a day from which on the day counts as empty if it has no rows.
    view: nothing is kept of it: its SELECT, over all rows of its inputs, is computed when somebody reads it.
    vault: of a hub, link or satellite: its parts, from which vault.py makes the SELECT; see `Vault`.
    day_of: of a source: a timestamp column. A row belongs to its UTC day, and a load fills the day column in.
    ignore_other_columns: of a source: its files have more columns than the contract, and a load leaves these out.
    """

    table: str
    path: Path
    about: _Text = Field(description="a text that says what a row of the table is")
    columns: Annotated[tuple[Column, ...], Field(min_length=1), _List] = Field(
        description="a list of {name, type, comment, nullable, sensitive, named, unit}"
    )
    key: Annotated[tuple[_Name, ...], _List] = Field(
        default=(), description="a list of the columns that together occur once a day, or [] where rows may repeat"
    )
    partitioned_by: Annotated[tuple[_Name, ...], _List] = Field(
        default=(), description="a list of columns of which the last one is the day"
    )
    kept_by: Annotated[tuple[_Name, ...], _List] = Field(
        default=(), description="a list of columns: a build replaces all rows of the keys that its days touch"
    )
    clustered_by: Annotated[tuple[_Name, ...], _List] = Field(
        default=(), description=f"a list of at most {_MAX_CLUSTERED} columns by which readers choose rows"
    )
    touched_by: Annotated[tuple[tuple[_TableName, Touch], ...], BeforeValidator(_as_pairs)] = Field(
        default=(), description="a mapping of inputs to {keys: SELECT from changed, rows: SELECT with touched}"
    )
    checks: Annotated[tuple[Annotated[Check, BeforeValidator(_as_check)], ...], _List] = Field(
        default=(), description="a list of checks, each of them SQL or {warn: SQL}"
    )
    reads: Annotated[tuple[tuple[_TableName, _Earlier], ...], BeforeValidator(_as_pairs)] = Field(
        default=(), description="a mapping of inputs to a number of earlier days or to all, such as {schema.table: 2}"
    )
    patience_hours: _Hours = Field(default=DEFAULT_PATIENCE_HOURS, description=_IN_HOURS)
    ready_when: _Text | None = Field(
        default=None, description="SQL with aggregates over a day, such as max(hour) = '23'"
    )
    empty_after: _Hours | None = Field(default=None, description=_IN_HOURS)
    view: bool = Field(default=False, description="true or false (without quotes)")
    vault: Vault | None = Field(
        default=None, description="a mapping with `stage` and one of hub, link, satellite, transactional_link"
    )
    day_of: _Name | None = Field(default=None, description="the timestamp column of whose UTC day a row is")
    ignore_other_columns: bool = Field(default=False, description="true or false (without quotes)")

    @property
    def select_path(self) -> Path:
        """The file that says the SELECT: of a table of a vault its contract."""
        return self.path if self.vault else self.path.with_suffix(".sql")

    @cached_property
    def is_source(self) -> bool:
        return not self.select_path.exists()

    @property
    def is_built(self) -> bool:
        """Does the runner build it: has it a SELECT, and is it no view?"""
        return not (self.is_source or self.view)

    @property
    def place_column(self) -> str | None:
        """The column whose values are the partitions of the Delta table."""
        return self.partitioned_by[-1] if self.partitioned_by else None

    @property
    def day_column(self) -> str | None:
        """The column of the period that a row is of; None for a table kept by key."""
        return None if self.kept_by else self.place_column

    @property
    def has_days(self) -> bool:
        """Is the table built or loaded by days (weeks, months), which the ledger knows?"""
        return bool(self.partitioned_by or self.kept_by)

    @cached_property
    def grain(self) -> Grain:
        """What a partition of the table is: a day, a week or a month."""
        return _GRAINS.get(str(self.day_column), "day")

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]


# The safe loader of C where PyYAML has it: a tenth of the time, at every parse of the DAGs.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STR = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_FIELDS = [name for name in Contract.model_fields if name not in ("table", "path")]
# A place in a file: names of fields and positions in lists, from the outside in.
_Place = tuple[int | str, ...]


def parse(text: str, path: Path) -> Contract:
    """The contract in `text`, the content of `path`. ContractError has a line for each mistake: file, line, cure."""
    shown = settings.shown(path)
    table = f"{path.parent.name}.{path.stem}"
    if not is_table_name(table) or table == LEDGER:
        cure = "is the ledger of the builds" if table == LEDGER else "is not a table name"
        raise ContractError(f"{shown}: {table} {cure}: name folder and file otherwise, in a-z, 0-9 and _")
    node, values = _yaml(text, shown)
    if not isinstance(values, dict):
        raise ContractError(f"{shown}:1: is no contract: write a mapping with the fields {', '.join(_FIELDS)}")

    unknown = [((str(name),), _unknown(name, _FIELDS)) for name in values if name not in _FIELDS]
    known = {name: value for name, value in values.items() if name in _FIELDS}
    problems: list[tuple[_Place, str]]
    try:
        contract, problems = Contract.model_validate({**known, "table": table, "path": path}), []
    except ValidationError as error:
        problems = [
            _problem(item, values)
            for item in error.errors(include_url=False, include_context=False)
            # Pydantic counts the good items alone: a list of wrong ones is not too short as well.
            if not (item["type"] == "too_short" and values[item["loc"][0]])
        ]
    else:
        filled = {RUN_TIMESTAMP, *contract.key, *contract.partitioned_by, *contract.kept_by}
        columns = tuple(
            column.model_copy(update={"nullable": False})
            if column.name in filled and "nullable" not in column.model_fields_set
            else column
            for column in contract.columns
        )
        contract = contract.model_copy(update={"columns": columns, "reads": tuple(sorted(contract.reads))})
        problems += _contradictions(contract)
    if problems := unknown + problems:
        lines = (f"{shown}:{line_of(node, place)}: {message}" for place, message in problems)
        raise ContractError("\n".join(dict.fromkeys(lines)))
    return contract


def plain(contract: Contract) -> dict[str, Any]:
    """A good contract as JSON takes it, but for its path; see kept.py. A key that the file does not say is None."""
    said = "key" in contract.model_fields_set
    return contract.model_dump(exclude={"path"}) | ({} if said else {"key": None})


def restored(values: dict[str, Any], path: Path, is_source: bool) -> Contract:
    """The contract of which `plain` gave the values. They were found good, and are not looked at again."""
    contract = Contract.model_construct(
        {name for name, value in values.items() if value is not None},
        **values
        | {
            "path": path,
            "key": tuple(values["key"] or ()),
            "partitioned_by": tuple(values["partitioned_by"]),
            "columns": tuple(Column.model_construct(**column) for column in values["columns"]),
            "checks": tuple(Check.model_construct(**check) for check in values["checks"]),
            "reads": tuple((name, earlier) for name, earlier in values["reads"]),
            "kept_by": tuple(values["kept_by"]),
            "clustered_by": tuple(values["clustered_by"]),
            "touched_by": tuple((name, Touch.model_construct(**touch)) for name, touch in values["touched_by"]),
            "vault": values["vault"] and Vault.model_construct(**_tuples(values["vault"])),
        },
    )
    # What the cached property would find on disk, but of the time when the files were looked at.
    contract.__dict__["is_source"] = is_source
    return contract


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _as_tuple(value) for name, value in values.items()}


def _contradictions(contract: Contract) -> Iterator[tuple[_Place, str]]:
    """What is wrong in a contract whose fields are right one by one: place and cure."""
    names, day = contract.column_names, contract.place_column
    for position, column in enumerate(contract.columns):
        place = ("columns", position, "name")
        if column.name in names[:position]:
            yield place, f"column {column.name} is listed twice"
        if column.name in _VALUES_OF_SQL:
            yield place, f"column {column.name}: Spark reads this word as a value; use another name"
        if column.name == DROP_REASON:
            yield place, f"column {DROP_REASON} is for rows that are not published; remove it here"
        if column.name == RUN_TIMESTAMP and not contract.is_source and (column.type != "timestamp" or column.nullable):
            yield place, f"column {RUN_TIMESTAMP} is filled by the runner: its type is timestamp, and never null"
        if column.name in contract.partitioned_by and column.type.startswith("array"):
            yield place, f"column {column.name}: Delta cannot partition by an {column.type}"
        if column.name == day and column.type != "string":
            yield place, f"the day column {day} must be a string yyyy-MM-dd"
        if column.name == day and column.nullable:
            yield place, f"the day column {day} cannot be null: remove `nullable: true`"
    for field, listed in (
        ("key", contract.key), ("partitioned_by", contract.partitioned_by), ("kept_by", contract.kept_by),
        ("clustered_by", contract.clustered_by),
    ):  # fmt: skip
        for position, name in enumerate(listed):
            if name not in names:
                yield (field, position), f"`{field}` names {name}, which is not a column"
            if name in listed[:position]:
                yield (field, position), f"`{field}` names {name} twice"
            if name == RUN_TIMESTAMP:
                yield (field, position), f"`{field}` names {name}, which is the same in all rows of a build; remove it"
    if set(names) - {RUN_TIMESTAMP} <= set(contract.partitioned_by):
        yield ("partitioned_by",), "`partitioned_by` names every column: Delta needs one that it leaves out"
    yield from _contradictions_of_clustering(contract)
    checks = [check.sql for check in contract.checks]
    for position, sql in enumerate(checks):
        if sql in checks[:position]:
            yield ("checks", position), f"check `{' '.join(sql.split())}` is listed twice"
    if contract.table in dict(contract.reads):
        yield ("reads",), f"`reads` names {contract.table} itself: a table cannot read its own days"
    yield from (_contradictions_of_a_source if contract.is_source else _contradictions_of_a_build)(contract)


def _contradictions_of_clustering(contract: Contract) -> Iterator[tuple[_Place, str]]:
    types = {column.name: column.type for column in contract.columns}
    for position, name in enumerate(contract.clustered_by):
        if name in contract.partitioned_by:
            yield (
                ("clustered_by", position),
                f"`clustered_by` names {name}, by which the table is partitioned; remove it",
            )
        if types.get(name, "").startswith("array"):
            yield ("clustered_by", position), f"`clustered_by` names {name}, and no file is near by an {types[name]}"
    if len(contract.clustered_by) > _MAX_CLUSTERED:
        yield (
            ("clustered_by",),
            f"`clustered_by` names {len(contract.clustered_by)} columns: name {_MAX_CLUSTERED} at most",
        )


def _contradictions_of_a_source(contract: Contract) -> Iterator[tuple[_Place, str]]:
    for field in ("checks", "reads", "kept_by", "touched_by", "view"):
        if getattr(contract, field):
            cure = f"remove it, or write {contract.select_path.name}"
            yield (field,), f"`{field}` is for what we build, and this is a source: {cure}"
    for field in ("ready_when", "empty_after"):
        if getattr(contract, field) is not None and not contract.day_column:
            yield (field,), f"`{field}` is for days, and this source has none: add `partitioned_by` or remove it"
    if contract.day_of is not None:
        types = {column.name: column.type for column in contract.columns}
        if types.get(contract.day_of) != "timestamp":
            yield ("day_of",), f"`day_of` names {contract.day_of}, which is no timestamp column"
        if not contract.day_column or contract.grain != "day":
            yield ("day_of",), "`day_of` is for sources of days: name the day column in `partitioned_by`, or remove it"
    yield from _contradictions_of_the_columns_of_a_source(contract)


def _contradictions_of_the_columns_of_a_source(contract: Contract) -> Iterator[tuple[_Place, str]]:
    names = contract.column_names
    in_files = [column.named for column in contract.columns]
    for position, column in enumerate(contract.columns):
        place = ("columns", position, "named")
        if column.named in names:
            yield place, f"column {column.name}: `named` is {column.named}, which is a column; write another name"
        elif column.named and column.named in in_files[:position]:
            yield place, f"column {column.name}: `named` is {column.named}, as of another column; write another name"
        if column.unit and column.type != "timestamp":
            place = ("columns", position, "unit")
            yield place, f"column {column.name}: `unit` is for timestamps, and this is {column.type}; remove it"


# What follows from `vault`.
_OF_A_VAULT = ("key", "kept_by", "touched_by", "reads", "view")
_VAULT_KINDS = ("hub", "link", "satellite", "transactional_link")


def _contradictions_of_a_vault_table(contract: Contract, vault: Vault) -> Iterator[tuple[_Place, str]]:
    kinds = [kind for kind in _VAULT_KINDS if getattr(vault, kind)]
    if len(kinds) != 1:
        yield ("vault",), f"`vault` needs one of {', '.join(_VAULT_KINDS)}, and has {' and '.join(kinds) or 'none'}"
    for field in _OF_A_VAULT:
        if getattr(contract, field):
            yield (field,), f"`{field}` follows from `vault`: remove it"
    if contract.path.with_suffix(".sql").exists():
        yield (
            ("vault",),
            f"its SELECT follows from `vault`: remove {contract.path.with_suffix('.sql').name}, or `vault`",
        )
    if contract.column_names[-2:] != ["load_date", "record_source"]:
        yield ("columns",), "the last two columns of a table of a vault are load_date and record_source"
    if vault.satellite and contract.column_names[-3:-2] != ["effective_from"]:
        yield ("columns",), "the column before load_date is effective_from: from when on a row of a satellite holds"
    if vault.optional and not set(vault.optional) < set(vault.link or ()):
        yield ("vault", "optional"), "`optional` names hubs of a `link`, and never all of them"
    if vault.implied_by and (not vault.transactional_link or vault.implied_by not in vault.sources):
        yield ("vault", "implied_by"), "`implied_by` is of a transactional link, and one of its `sources`"


def _contradictions_of_a_build(contract: Contract) -> Iterator[tuple[_Place, str]]:
    for field in ("ready_when", "empty_after"):
        if getattr(contract, field) is not None:
            yield (field,), f"`{field}` is for sources: a day that we build is there once it is built; remove it"
    for field in ("day_of", "ignore_other_columns"):
        if getattr(contract, field):
            yield (field,), f"`{field}` is for files of a source, and this table has a SELECT: remove it"
    if contract.vault:
        yield from _contradictions_of_a_vault_table(contract, contract.vault)
        return
    for position, column in enumerate(contract.columns):
        for field in ("named", "unit"):
            if getattr(column, field):
                cure = f"`{field}` is for files of a source, and this table has a SELECT: remove it"
                yield ("columns", position, field), f"column {column.name}: {cure}"
    if contract.view:
        for field in ("key", "partitioned_by", "kept_by", "clustered_by", "touched_by", "reads", "checks"):
            if getattr(contract, field):
                yield (field,), f"`{field}` is for what is kept, and a view is not: remove it"
        return
    if "key" not in contract.model_fields_set:
        yield (), f"`key` is missing: write {Contract.model_fields['key'].description}"
    if contract.kept_by:
        yield from _contradictions_of_a_table_kept_by_key(contract)
        return
    if contract.touched_by:
        yield ("touched_by",), "`touched_by` is for tables kept by key: write `kept_by` or remove it"
    if not contract.partitioned_by:
        yield (), f"`partitioned_by` is missing: write {Contract.model_fields['partitioned_by'].description}"


def _contradictions_of_a_table_kept_by_key(contract: Contract) -> Iterator[tuple[_Place, str]]:
    types = {column.name: column.type for column in contract.columns}
    nullable = {column.name for column in contract.columns if column.nullable}
    for position, name in enumerate(contract.kept_by):
        kind = types.get(name, "string")
        if kind.startswith("array") or kind == "double":
            yield ("kept_by", position), f"`kept_by` names {name}, and {kind} is no type of a key"
        if name in nullable:
            yield ("kept_by", position), f"`kept_by` names {name}, which cannot be null: remove `nullable: true`"
    if len(contract.partitioned_by) > 1:
        yield ("partitioned_by",), "`partitioned_by` of a table kept by key names one column, where its rows lie"
    if contract.reads:
        yield ("reads",), "`reads` is for tables of days: a table kept by key reads all days; remove it"
    if RUN_TIMESTAMP in contract.kept_by:
        yield ("kept_by",), f"`kept_by` names {RUN_TIMESTAMP}, which differs in every build; remove it"


def _problem(error: Any, values: dict[Any, Any]) -> tuple[_Place, str]:
    """Place and cure of what pydantic refuses."""
    place: _Place = error["loc"]
    field, prefix, fields = place[0], "", Contract.model_fields
    if field == "columns" and len(place) > 2:
        field, fields = place[2], Column.model_fields
        column = values["columns"][place[1]]
        prefix = f"column {column.get('name', int(place[1]) + 1)}: "
    if field == "vault" and len(place) > 1:
        field, fields, prefix = place[1], Vault.model_fields, "`vault`: "
    if error["type"] == "extra_forbidden":  # of a column or a vault, whose fields alone are not looked at before
        return place, prefix + _unknown(field, fields)
    if field == "touched_by" and len(place) > 1:  # its pairs are a mapping in the file
        (name, _), *_ = [list(values["touched_by"].items())[int(place[1])]]
        return (field, name), f"`touched_by` of {name} is wrong; write {fields[str(field)].description}"
    description = fields[str(field)].description
    if error["type"] == "missing":
        return place, f"{prefix}`{field}` is missing: write {description}"
    value = error["input"]
    if field == "checks" and len(place) > 1:  # as it is written, and not as it was prepared
        value, place = values["checks"][place[1]], place[:2]
    return place, f"{prefix}`{field}`: {reprlib.repr(value)} is wrong; write {description}"


def _unknown(field: Any, fields: Iterable[str]) -> str:
    return f"unknown field `{field}`; the fields are {', '.join(fields)}"


def _yaml(text: str, shown: str) -> tuple[yaml.Node | None, Any]:
    """A YAML document as nodes, which know their lines, and as values; ContractError if it is none."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else _values(node, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-02-30
        raise ContractError(wrong_yaml(error, shown)) from None


def constants(text: str, path: Path) -> dict[str, str]:
    """Name -> value in SQL, of a file of constants; ContractError with file, line and cure."""
    shown = settings.shown(path)
    node, values = _yaml(text, shown)
    if not isinstance(values, dict):
        raise ContractError(f"{shown}:1: has no constants: write a mapping such as {{longest_idle_minutes: 30}}")
    found = {}
    for name, value in values.items():
        where = f"{shown}:{line_of(node, (name,))}"
        if not re.fullmatch(_NAME, str(name)) or name in ("start_date", "end_date"):
            raise ContractError(f"{where}: {name!r} is no name of a constant: use a-z, 0-9 and _, and no day's name")
        if isinstance(value, str) and not set(value) & set("'\\\n"):  # engines read these in several ways
            found[name] = f"'{value}'"
        elif isinstance(value, (bool, int)):
            found[name] = str(value).lower()
        else:
            raise ContractError(
                f"{where}: {value!r} is wrong: a constant is a text without quotes, a whole number, true or false"
            )
    return found


def wrong_yaml(error: Exception, shown: str) -> str:
    """Why a text is no YAML, with the file and the line."""
    mark = getattr(error, "problem_mark", None)
    reason = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]
    return f"{shown}:{mark.line + 1 if mark else 1}: is wrong YAML: {reason}"


def _values(node: yaml.Node, loader: yaml.SafeLoader) -> Any:
    """What a node says. PyYAML's own way takes three times as long, and of a key given twice only the last value."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMBERS and ":" in node.value:
            read = loader.construct_object(node)
            problem = f"`{node.value}` is {read} in YAML, which counts by 60: write {read}, or quotes around a text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node.value if node.tag == _STR else loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_values(item, loader) for item in node.value]
    values: dict[Any, Any] = {}
    for key, item in node.value:
        name = key.value if key.tag == _STR else loader.construct_object(key, deep=True)
        if not isinstance(name, Hashable):
            raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
        if name in values:
            raise yaml.MarkedYAMLError(problem=f"`{name}` is given twice; remove one", problem_mark=key.start_mark)
        values[name] = _values(item, loader)
    return values


def line_of(node: yaml.Node | None, place: _Place) -> int:
    """The line of a place in a document; where there is nothing, that of what it would be in."""
    line = 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == part]
            if not pairs and isinstance(part, int):  # of `reads`, whose pairs have a position
                pairs = node.value[part : part + 1]
            if not pairs:
                break
            # Of a case, what `<<` brings comes first. What the row itself says comes later, and counts.
            line, node = pairs[-1][0].start_mark.line, pairs[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1


def place(path: Path, *parts: int | str) -> str:
    """File and line of a part of a contract, such as ("checks", 2), as errors begin: `include/sql/a/b.yaml:12`."""
    shown = settings.shown(path)
    try:
        return f"{shown}:{line_of(_yaml(read_text(path), shown)[0], parts)}"
    except ContractError:
        return shown


def is_table_name(text: str) -> bool:
    """Is `text` schema.table in a-z, 0-9 and _: safe in SQL, in a path and in a task id."""
    return bool(_TABLE.fullmatch(text))


def read_text(path: Path) -> str:
    """The text of a file of the project; ContractError names the file if there is none in it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ContractError(f"{settings.shown(path)}:{line}: is not UTF-8: save it in that encoding") from None
    except OSError as error:
        raise ContractError(f"{settings.shown(path)}: cannot be read: {error.strerror}") from None


def is_leftover(name: str) -> bool:
    """Did a system or an editor leave this file? macOS: `._x.yaml`; Emacs: `.#x.sql`, `#x.sql#`; vim: `.x.sql.swp`."""
    return name.startswith((".", "#", "~")) or name.endswith("~")


def require_built(contract: Contract) -> None:
    """UsageError unless the runner builds the table."""
    if not contract.is_built:
        table, kind = contract.table, "view" if contract.view else "source"
        of_source = f"load {table} FILE, or write its SELECT, {settings.shown(contract.select_path)}"
        cure = f"show {table}" if contract.view else of_source
        raise UsageError(f"{table} is a {kind}, nothing builds it: ./lake {cure}")


class Contracts(dict[str, Contract]):
    """The good contracts by table name. `broken`: table -> what is wrong with its files, a line for each mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: dict[str, str] = {}


def load_all() -> Contracts:
    """All good contracts of the project as it is now, and what is wrong with the others."""
    from include.lake.project import current  # it imports this module

    return current.project().contracts


def that_keep_rows() -> list[str]:
    """All sources and tables by name, without views, the ledger last."""
    return [*sorted(name for name, contract in load_all().items() if not contract.view), LEDGER]


def get(table: str) -> Contract:
    """The contract of `table`; ContractError if it is wrong, UsageError with the nearest name if there is none."""
    from include.lake.project import current  # it imports this module

    return current.project().contract(table)
