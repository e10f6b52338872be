"""Makes the SELECTs of a Data Vault from what the contracts declare: hubs, links, satellites, transactional links.

Each SELECT takes the events of a stage and the rows that the table has published, and keeps of each key

- in hubs and links the row of the earliest day; of this day that of the alphabetically first source,
- in satellites one row for each change of the payload, in order of effective_from,
- in transactional links each event once.

The published rows with the new events give the same as all events, so a day needs no history.
A hash key is the MD5 of its business keys, as upper-case hex. A text is trimmed and in upper case, and '' is null. Of
several keys a null counts as ^^, and || joins them. The hash is null where all are null: then there is no row.
"""

from collections.abc import Callable, Iterable

from include.lake import settings
from include.lake.errors import ContractError, UsageError
from include.lake.project.contracts import Contract, Touch

LOAD_DATE, RECORD_SOURCE, EFFECTIVE_FROM, EVENT_TS = "load_date", "record_source", "effective_from", "event_ts"
# As `lineage` has them, which imports this module.
CHANGED, TOUCHED, PUBLISHED = "changed", "touched", "published"
_EVENT, _NOTHING, _BETWEEN = "event", "^^", "||"
# How a value becomes text in a hash key, the same on each engine. Six decimals of a coordinate are a tenth of a metre;
# its millionths are rounded to a whole number, because Spark's cast of 66.3028655 to six decimals is not Sail's.
_TEXT_OF = {
    "string": "nullif(upper(trim({})), '')",
    "timestamp": "date_format({}, 'yyyy-MM-dd HH:mm:ss.SSS')",
    "double": "cast(cast(cast(cast(floor({} * 1000000 + 0.5D) as bigint) as decimal(19, 0)) "
    "* cast(0.000001 as decimal(7, 6)) as decimal(26, 6)) as string)",
    "boolean": "upper(cast({} as string))",
}
_OTHER_TEXT = "cast({} as string)"
# Without the cast Sail gives a view of text, and counts its memory many times over: see `test_sail.py`.
_MD5 = "cast(md5({}) as string)"

Find = Callable[[str], Contract]


def completed(contract: Contract, find: Find) -> Contract:
    """The contract with the fields that follow from `vault`. ContractError for what does not fit together."""
    made = _Made(contract, find)
    columns = tuple(
        column.model_copy(update={"nullable": False}) if column.name in made.filled else column
        for column in contract.columns
    )
    touch = Touch(keys=made.touched_keys(), rows=made.needed_rows())
    full = contract.model_copy(
        update={
            "columns": columns,
            "key": made.key,
            "kept_by": made.kept_by,
            "touched_by": ((made.vault.stage, touch),),
        }
    )
    full.__dict__["is_source"] = False
    return full


def select(contract: Contract, find: Find) -> str:
    """The SELECT of a table of a vault."""
    made = _Made(contract, find)
    if made.vault.satellite:
        return made.satellite()
    return made.transactional_link() if made.vault.transactional_link else made.hub_or_link()


class _Made:
    """The parts of a vault table: what its columns are in the stage."""

    def __init__(self, contract: Contract, find: Find) -> None:
        assert contract.vault is not None
        self.contract, self.vault, self.find = contract, contract.vault, find
        try:
            self.stage = find(self.vault.stage)
        except UsageError as error:
            raise self._wrong("vault", str(error)) from None
        self._types = {column.name: column.type for column in self.stage.columns}
        if not self.stage.day_column or self.stage.vault:
            raise self._wrong("stage", f"{self.stage.table} is no table of days")
        for name in (EVENT_TS, RECORD_SOURCE):
            self._of_stage(name, "stage")
        self.hash_key = contract.column_names[0]
        self.between = contract.column_names[1:-2]
        self.parents = [
            self._hub(name)
            for name in self.vault.link or self.vault.transactional_link or (self.vault.satellite or "",)
            if name
        ]
        self.expressions = self._expressions()
        if missing := [name for name in contract.column_names if name not in self.expressions]:
            raise self._wrong("columns", f"{missing[0]} is no column of {self.stage.table}")
        self.kept_by = (self.parents[0][0],) if self.vault.implied_by else (self.hash_key,)
        self.key = (self.hash_key, EFFECTIVE_FROM) if self.vault.satellite else (self.hash_key,)
        optional = {self._hub(name)[0] for name in self.vault.optional}
        self.needed = [name for name, _ in self.parents if name not in optional] if self.vault.link else [self.hash_key]
        self.filled = {*self.key, *self.kept_by, *self.needed, LOAD_DATE, RECORD_SOURCE}

    def _wrong(self, field: str, what: str) -> ContractError:
        return ContractError(f"{settings.shown(self.contract.path)}: `{field}`: {what}")

    def _of_stage(self, name: str, field: str) -> str:
        if name not in self._types:
            raise self._wrong(field, f"{self.stage.table} has no column {name}")
        return name

    def _hub(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The hash key of a hub and its business keys."""
        table = f"{self.contract.table.partition('.')[0]}.{name}"
        try:
            hub = self.find(table)
        except UsageError as error:
            raise self._wrong("vault", str(error)) from None
        if not hub.vault or not hub.vault.hub:
            raise self._wrong("vault", f"{table} is no hub")
        return hub.column_names[0], hub.vault.hub

    def _expressions(self) -> dict[str, str]:
        """Column -> what it is, of an event."""
        vault = self.vault
        found = {name: f"{_EVENT}.{name}" for name in self.between if name in self._types}
        found |= {name: self._hash(keys) for name, keys in self.parents}
        found[LOAD_DATE] = f"{_EVENT}.{self.stage.day_column}"
        found[RECORD_SOURCE] = f"{_EVENT}.{RECORD_SOURCE}"
        if vault.hub:
            found[self.hash_key] = self._hash(vault.hub)
        elif vault.satellite:
            found[EFFECTIVE_FROM] = f"{_EVENT}.{EVENT_TS}"
            found[self.hash_key] = self._hash(self.parents[0][1])
        else:
            own = [name for name in self.between if name not in dict(self.parents)]
            found[self.hash_key] = self._hash([*(key for _, keys in self.parents for key in keys), *own])
        return found

    def _hash(self, names: Iterable[str]) -> str:
        """The hash key of some columns of the stage, each taken once."""
        texts = []
        for name in dict.fromkeys(names):
            kind = self._types[self._of_stage(name, "vault")]
            texts.append(_TEXT_OF.get(kind, _OTHER_TEXT).format(f"{_EVENT}.{name}"))
        if len(texts) == 1:
            return f"upper({_MD5.format(texts[0])})"
        parts = "".join(f",\n            coalesce({text}, '{_NOTHING}')" for text in texts)
        nothing = _BETWEEN.join([_NOTHING] * len(texts))
        text = f"nullif(\n            concat_ws('{_BETWEEN}'{parts}),\n            '{nothing}'\n        )"
        return f"upper({_MD5.format(text)})"

    def _counts(self) -> str:
        """The condition that an event is of one of the sources; empty for all."""
        if not self.vault.sources:
            return ""
        return f"{_EVENT}.{RECORD_SOURCE} in ({', '.join(map(repr, self.vault.sources))})"

    def _where(self) -> str:
        return f"\nwhere {self._counts()}" if self._counts() else ""

    def touched_keys(self) -> str:
        (name,) = self.kept_by
        expression = self.expressions[name].replace(f"{_EVENT}.", f"{CHANGED}.")
        return f"select {expression} as {name}\nfrom {CHANGED}{self._where().replace(f'{_EVENT}.', f'{CHANGED}.')}"

    def needed_rows(self) -> str:
        (name,) = self.kept_by
        return (
            f"select {_EVENT}.*\nfrom {self.stage.table} as {_EVENT}\n"
            f"left semi join {TOUCHED} on {TOUCHED}.{name} = {self.expressions[name]}{self._where()}"
        )

    def _observed(self) -> str:
        """All rows that count: of the events, and the published ones."""
        given = []
        for name in self.contract.column_names:
            expression = self.expressions[name]
            given.append(expression if expression == f"{_EVENT}.{name}" else f"{expression} as {name}")
        columns = ",\n        ".join(given)
        own = ", ".join(f"{PUBLISHED}.{name}" for name in self.contract.column_names)
        where = f"\n    where {self._counts()}" if self._counts() else ""
        return (
            f"with observed as (\n    select\n        {columns}\n    from {self.stage.table} as {_EVENT}{where}\n"
            f"    union all\n    select {own}\n    from {PUBLISHED}\n)"
        )

    def _outer(self, source: str, condition: str, *more: str) -> str:
        names = ",\n    ".join([*self.contract.column_names, *more])
        return f"select\n    {names}\nfrom {source}\nwhere {condition}\n"

    def _order(self) -> str:
        """A total order of the rows of one hash key: rows of other spelling, or of one millisecond, have one, too."""
        return ", ".join([LOAD_DATE, RECORD_SOURCE, *self.between])

    def hub_or_link(self) -> str:
        known = " and ".join(f"{name} is not null" for name in self.needed)
        ranked = _numbered("ranked", "observed", "place", self.hash_key, self._order(), known)
        return f"{self._observed()},\n{ranked}\n{self._outer('ranked', 'place = 1')}"

    def transactional_link(self) -> str:
        if not (implied := self.vault.implied_by):
            known = f"{self.hash_key} is not null"
            ranked = _numbered("ranked", "observed", "place", self.hash_key, self._order(), known)
            return f"{self._observed()},\n{ranked}\n{self._outer('ranked', 'place = 1')}"
        (first_hub,) = self.kept_by
        moment = next(name for name in self.between if name not in dict(self.parents))
        turns = f"case when {RECORD_SOURCE} = '{implied}' then 1 else 0 end, {moment}, {self.hash_key}"
        ranked = _numbered("ranked", "observed", "place", self.hash_key, self._order())
        placed = _numbered("placed", "ranked", "turn", first_hub, turns, "place = 1")
        outer = self._outer(
            "placed",
            f"{first_hub} is null or {RECORD_SOURCE} <> '{implied}' or turn = 1",
            f"case when {first_hub} is null then 'no_{first_hub.removesuffix('_pk')}' end as drop_reason",
        )
        return f"{self._observed()},\n{ranked},\n{placed}\n{outer}"

    def satellite(self) -> str:
        payload, sources = self.between[:-1], self.vault.sources
        places = " ".join(f"when '{source}' then {place}" for place, source in enumerate(sources))
        first = [f"case {RECORD_SOURCE} {places} end"] if len(sources) > 1 else []
        order = ", ".join([*first, *payload, RECORD_SOURCE, LOAD_DATE])
        instant = f"{self.hash_key}, {EFFECTIVE_FROM}"
        instants = _numbered("instants", "observed", "place", instant, order, f"{self.hash_key} is not null")
        window = f"over (partition by {self.hash_key} order by {EFFECTIVE_FROM})"
        before = [f"lag({name}) {window} as before_{name}" for name in payload]
        compared = _numbered("compared", "instants", "number", self.hash_key, EFFECTIVE_FROM, "place = 1", before)
        same = " and ".join(f"{name} <=> before_{name}" for name in payload)
        outer = self._outer("compared", f"number = 1 or not ({same})")
        return f"{self._observed()},\n{instants},\n{compared}\n{outer}"


def _numbered(
    name: str, source: str, number: str, by: str, order: str, where: str = "", more: Iterable[str] = ()
) -> str:
    """A table expression: the rows of `source` with their number among those that are equal in `by`."""
    columns = [f"{source}.*", f"row_number() over (partition by {by} order by {order}) as {number}", *more]
    condition = f"\n    where {where}" if where else ""
    return f"{name} as (\n    select\n        {f',{chr(10)}        '.join(columns)}\n    from {source}{condition}\n)"
