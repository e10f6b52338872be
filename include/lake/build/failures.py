"""The explanation of an error for people: its class, its root cause, if a retry helps, how to repeat it.

Only this module decides the class of an error: tasks, backfill and the command line all call `kind`.
"""

import difflib
import re
import traceback
from dataclasses import dataclass

from include.lake import settings
from include.lake.engine import engine, server
from include.lake.errors import CODE, CONFLICT, DATA, INFRASTRUCTURE, ContractError, LakeError, UsageError
from include.lake.project import contracts, lineage
from include.lake.words import span

_ADVICE = {
    DATA: "the same data fail again: correct them, or the SELECT",
    CODE: "a retry fails again: it wants an edit",
    CONFLICT: "a retry helps: the other builds are done by then",
    INFRASTRUCTURE: "a retry may help: this is not about the data or the SELECT",
}
# What Sail (in our words) and Java say when memory has run out.
_NO_MEMORY = re.compile(r"LAKE_ENGINE_MEMORY|OutOfMemoryError|Java heap space")
# What gRPC says when the server is gone.
_NO_ANSWER = "StatusCode.UNAVAILABLE"
# A data file of a table, with the value of its partition, and what engines and systems say where it is not there, or
# where only a part of it is.
_DATA_FILE = re.compile(r"[^\s'\"]*/(\w+)/(\w+)/(?:\w+=([\w-]+)/)?[\w.-]+\.parquet")
_ABSENT = re.compile(r"not found|No such file|does not exist|FILE_NOT_EXIST", re.IGNORECASE)
# A column that is nowhere, as Sail and Spark say it.
_NO_COLUMN = re.compile(r"attribute ObjectName\(\[(.+?)\]\) is missing|UNRESOLVED_COLUMN.*? with name (`.+?`) cannot")
_IDENTIFIER = re.compile(r'Identifier\("(.+?)"\)|`(.+?)`')
_TORN = re.compile(
    r"is torn|not a parquet file|FAILED_READ_FILE\.NO_HINT|corrupt|range was invalid|required field|magic",
    re.IGNORECASE,
)
_OF_A_FILE = "a retry fails again: it wants the file, or its rows, again"
_OF_MEMORY = "a retry helps only if other builds have used the memory: else give LAKE_ENGINE_MEMORY more"
_CAUSE_LINES = 20
_LINE_LENGTH = 400


@dataclass(frozen=True)
class Failure:
    """`kind`: data, code, conflict or infrastructure. `text`: lines for people, at the end the command to repeat."""

    kind: str
    text: str

    @property
    def retry(self) -> bool:
        """Can a retry help without any other change?"""
        return self.kind in (CONFLICT, INFRASTRUCTURE)


def kind(error: BaseException) -> str:
    """The class of an error. It says what has to change before a retry makes sense."""
    if isinstance(error, LakeError):
        return error.kind
    # delta-rs has one error for every commit that lost, whatever it was about.
    if type(error).__name__ == "CommitFailedError":
        return CONFLICT
    return engine().kind(error) or (INFRASTRUCTURE if _is_of_a_system(error) else CODE)


def wrong_select(error: BaseException, contract: contracts.Contract) -> ContractError:
    """The error of an engine that does not understand a SELECT, in a line; of a wrong column with line and cure."""
    place, reason = settings.shown(contract.select_path), str(error).splitlines()[0]
    if found := _NO_COLUMN.search(reason):
        name = ["".join(parts) for parts in _IDENTIFIER.findall(found[1] or found[2])][-1]
        text = lineage.select(contract.table).text.splitlines()
        line = next((n for n, line in enumerate(text, 1) if re.search(rf"\b{re.escape(name)}\b", line)), None)
        names = {column for table in lineage.inputs(contract.table) for column in contracts.get(table).column_names}
        near = difflib.get_close_matches(name, sorted(names), n=1)
        cure = f"did you mean {near[0]}?" if near else "its inputs have none of this name"
        place, reason = f"{place}:{line}" if line else place, f"there is no column {name}; {cure}"
    return ContractError(f"{place}: {reason}")


def is_bug(error: BaseException) -> bool:
    """Is it a mistake in our own code, which only a traceback explains?"""
    return not (isinstance(error, LakeError) or _is_of_a_system(error) or engine().kind(error))


def explain(error: BaseException, table: str, start: str, end: str) -> Failure:
    """The message for people when a build of start..end failed."""
    lines = [describe(error, f"{table} {span(start, end)}")]
    if not isinstance(error, UsageError):
        lines.append(f"see it again: ./lake build {table} --from {start} --to {end}")
    return Failure(kind(error), "\n".join(lines))


def describe(error: BaseException, subject: str) -> str:
    """A few lines: `subject` failed, the class of the error, and its cause."""
    advice = _OF_MEMORY if is_of_memory(error) else _OF_A_FILE if is_of_a_file(error) else _ADVICE[kind(error)]
    return "\n".join([f"{subject} failed ({kind(error)} error; {advice})", *root_cause(error)])


def root_cause(error: BaseException) -> list[str]:
    """The innermost cause, in at most 20 lines without Java frames. The error of a check keeps its example rows."""
    if isinstance(error, LakeError):
        return str(error).splitlines()
    if _NO_ANSWER in str(error):
        return [_lost_engine()]
    if damaged := _damaged_file(error):
        return [damaged]
    if is_bug(error) and error.__traceback__:
        text = "".join(traceback.format_exception(error))
    elif isinstance(error, OSError) and error.strerror:
        text = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    else:
        text = str(error)
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(("at ", "... "))]
    causes = [n for n, line in enumerate(lines) if line.startswith("Caused by:")]
    lines = lines[causes[-1] :] if causes else lines
    # The end of a Python traceback says the most. A message of Spark says it at its beginning.
    if len(lines) > _CAUSE_LINES and lines[0].startswith("Traceback"):
        lines = ["…", *lines[1 - _CAUSE_LINES :]]
    return [line[:_LINE_LENGTH] for line in lines[:_CAUSE_LINES]] or [type(error).__name__]


def is_of_a_file(error: BaseException) -> bool:
    """Is a data file of a table lost or torn? Then neither the SELECT nor the rows are to blame."""
    return _damaged_file(error) is not None


def _damaged_file(error: BaseException) -> str | None:
    """Whose file somebody has taken away by hand, or a disk has torn, with the cure; None for other errors."""
    message = str(error)
    found = _DATA_FILE.search(message)
    damage = "torn" if _TORN.search(message) else "gone" if _ABSENT.search(message) else None
    if not found or not damage or isinstance(error, LakeError):
        return None
    path, table, day = found[0], f"{found[1]}.{found[2]}", found[3] or "D"
    try:
        is_source = contracts.get(table).is_source
    except LakeError:
        return None
    cure = f"load {table} FILE" if is_source else f"build {table} --from {day} --to {day} --force"
    return f"a file of {table} is {damage} ({path}): restore it, or write its rows again: ./lake {cure}"


def _lost_engine() -> str:
    if others := settings.server_of_others():
        return f"the engine at {others} does not answer any more: who runs it has its log"
    return f"the engine has died, or somebody has stopped it (its log is in {server.state_folder()}): do the same again"


def is_of_memory(error: BaseException) -> bool:
    """Was the memory of the engine too small? Fewer days at a time may fit."""
    return kind(error) == INFRASTRUCTURE and _NO_MEMORY.search(str(error)) is not None


def first_line(error: BaseException) -> str:
    """The root cause in one line. For a bug it is the last line of the traceback."""
    return root_cause(error)[-1 if is_bug(error) else 0]


def _is_of_a_system(error: BaseException) -> bool:
    """Is it from Delta, known by its module, or the operating system? The query engine of Delta has no module."""
    modules = ("deltalake", "_internal", "pyo3_runtime")
    known = isinstance(error, (OSError, MemoryError)) or type(error).__module__.startswith(modules)
    return known or is_of_a_file(error)
