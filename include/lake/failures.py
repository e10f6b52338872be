"""Why a build failed, told to people: the class of the error, its root cause, if a retry helps, how to see it again."""

import traceback
from dataclasses import dataclass

from include.lake.errors import CODE, CONFLICT, DATA, INFRASTRUCTURE, LakeError, UsageError

_CLASSES = {
    # What the kinds of SQLSTATE mean: https://spark.apache.org/docs/latest/sql-error-conditions-sqlstates.html
    "0A": CODE,  # not supported
    "21": DATA,  # one row was expected and several came
    "22": DATA,  # a value that cannot be cast, divided by, indexed with …
    "23": DATA,  # a constraint of the table
    "38": CODE,  # a function of ours
    "39": CODE,
    "42": CODE,  # syntax, names, types
    "2D": CONFLICT,  # Delta: somebody else committed in between
}
# How Delta says that someone else committed in between. Through Connect only the name in the text survives.
_CONFLICTS = ("DELTA_CONCURRENT", "ConcurrentAppend", "ConcurrentDelete", "ConcurrentWrite", "DELTA_METADATA_CHANGED")
_CAUSE_LINES = 20
_LINE_LENGTH = 400


@dataclass(frozen=True)
class Failure:
    """`kind`: data, code, conflict or infrastructure. `text`: lines for people, the command that repeats it last."""

    kind: str
    text: str

    @property
    def retry(self) -> bool:
        """Can trying again help, with nothing else done?"""
        return self.kind in (CONFLICT, INFRASTRUCTURE)


def kind(error: BaseException) -> str:
    """The class of an error: what has to change before trying again makes sense."""
    if isinstance(error, LakeError):
        return error.kind
    # delta-rs has one error for every commit that lost, whatever it was about.
    if type(error).__name__ == "CommitFailedError" or any(name in str(error) for name in _CONFLICTS):
        return CONFLICT
    if _is_spark(error):
        state = getattr(error, "getSqlState", lambda: None)() or ""
        # An error without a state is one of Spark or its machine, and not of what it was asked for.
        return _CLASSES.get(state[:2], INFRASTRUCTURE)
    # gRPC's and Delta's errors derive from Exception itself: their module says where they are from.
    if isinstance(error, (OSError, MemoryError)) or type(error).__module__.startswith(
        ("grpc", "deltalake", "_internal")
    ):
        return INFRASTRUCTURE
    return CODE


def explain(error: BaseException, table: str, start: str, end: str) -> Failure:
    """What a person wants to read when a build of start..end failed."""
    found = kind(error)
    span = start if start == end else f"{start}..{end}"
    advice = {
        DATA: "the same data fail again: correct them, or the SELECT",
        CODE: "a retry fails again: it wants an edit",
        CONFLICT: "a retry helps: the other builds are done by then",
        INFRASTRUCTURE: "a retry may help: this is not about the data or the SELECT",
    }[found]
    lines = [f"{table} {span} failed ({found} error; {advice})", *root_cause(error)]
    if not isinstance(error, UsageError):
        lines.append(f"see it again: ./lake build {table} --from {start} --to {end}")
    return Failure(found, "\n".join(lines))


def root_cause(error: BaseException) -> list[str]:
    """The innermost reason, in at most 20 lines and without the frames of a JVM; then rows that a check has shown."""
    if isinstance(error, LakeError):
        return str(error).splitlines()
    told = str(error) if _is_spark(error) or not error.__traceback__ else "".join(traceback.format_exception(error))
    lines = [line for line in told.splitlines() if line.strip() and not line.strip().startswith(("at ", "... "))]
    deeper = [n for n, line in enumerate(lines) if line.startswith("Caused by:")]
    lines = lines[deeper[-1] :] if deeper else lines
    # The last lines of a Python traceback tell the most; a Spark message begins with what it is about.
    if len(lines) > _CAUSE_LINES and lines[0].startswith("Traceback"):
        lines = ["…", *lines[1 - _CAUSE_LINES :]]
    return [line[:_LINE_LENGTH] for line in lines[:_CAUSE_LINES]] or [type(error).__name__]


def _is_spark(error: BaseException) -> bool:
    # By name, so that a failure is explained without importing Spark.
    return any(base.__name__ == "PySparkException" for base in type(error).__mro__)
