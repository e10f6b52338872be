"""Is a day of a source complete: `ready_when` of its contract, computed by delta-rs, without Spark."""

from typing import Any

from sqlglot import exp

from include.lake.errors import ContractError, LakeError
from include.lake.project import contracts, readiness
from include.lake.project.contracts import Contract
from include.lake.storage import Snapshot, store

# (table id, table, ready_when) -> day -> (version of its rows, reason). While something waits for a day, it is asked
# for every few seconds. It is computed again when its rows have changed.
_known: dict[tuple[str, str, str], dict[str, tuple[int, str]]] = {}


def reasons(snapshot: Snapshot, contract: Contract, days: list[str], versions: dict[str, int]) -> dict[str, str]:
    """Day -> why it does not count as there yet, empty for a complete day. `versions`: those of the days' rows."""
    known = _known.setdefault((snapshot.table_id, contract.table, str(contract.ready_when)), {})
    unknown = [day for day in days if known.get(day, (None, ""))[0] != versions[day]]
    if unknown:
        answers = _compute(snapshot, contract, unknown)
        known.update({day: (versions[day], answers.get(day, _NO_ROWS)) for day in unknown})
    return {day: known[day][1] for day in days}


_NO_ROWS = "is not complete: it has no rows"


def expressions(contract: Contract, dialect: str) -> list[str]:
    """`ready_when` in the SQL of an engine, and after it the values in it, which say how far a day is."""
    condition = readiness.parsed_ready_when(contract.table)
    assert condition is not None, "the contract has ready_when"
    values = dict.fromkeys(node.sql(dialect=dialect) for node in condition.find_all(exp.AggFunc))
    return [f"({condition.sql(dialect=dialect)})", *values]


def _compute(snapshot: Snapshot, contract: Contract, days: list[str]) -> dict[str, str]:
    selected = expressions(contract, store().dialect)
    try:
        rows = store().values(snapshot, str(contract.day_column), days, selected)
    except Exception as error:
        # delta-rs raises plain exceptions for what its query engine does not understand, and for what it cannot read.
        problem = str(error).splitlines()[0]
        if ".parquet" in problem:
            raise LakeError(f"a file of {contract.table} is lost or torn: load its days again ({problem})") from None
        raise ContractError(
            f"{contracts.place(contract.path, 'ready_when')}: `ready_when` `{contract.ready_when}` cannot be computed: "
            f"{problem}"
        ) from None
    columns = [column.to_pylist() for column in rows.columns]
    return {day: reason(contract, ready, selected[1:], row) for day, ready, *row in zip(*columns, strict=True)}


def reason(contract: Contract, ready: Any, names: list[str], values: list[Any]) -> str:
    """Why a day does not count as there yet; empty if it is complete."""
    if ready:
        return ""
    shown = ", ".join(f"{name} is {value}" for name, value in zip(names, values, strict=True))
    return f"is not complete: {shown}, and ready_when is {contract.ready_when}"
