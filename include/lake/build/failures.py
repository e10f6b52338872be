"""Why something failed, told to people: the class of the error, its root cause, if a retry helps, how to see it again.

The one place that says what an error is: tasks, backfill and the command line all ask `kind`.
"""

import traceback
from dataclasses import dataclass

from include.lake.engine import engine
from include.lake.errors import CODE, CONFLICT, DATA, INFRASTRUCTURE, LakeError, UsageError

_ADVICE = {
    DATA: "the same data fail again: correct them, or the SELECT",
    CODE: "a retry fails again: it wants an edit",
    CONFLICT: "a retry helps: the other builds are done by then",
    INFRASTRUCTURE: "a retry may help: this is not about the data or the SELECT",
}
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
    if type(error).__name__ == "CommitFailedError":
        return CONFLICT
    return engine().kind(error) or (INFRASTRUCTURE if _is_of_a_system(error) else CODE)


def is_bug(error: BaseException) -> bool:
    """Is it a mistake in our own code, which only a traceback explains?"""
    return not (isinstance(error, LakeError) or _is_of_a_system(error) or engine().kind(error))


def explain(error: BaseException, table: str, start: str, end: str) -> Failure:
    """What a person wants to read when a build of start..end failed."""
    span = start if start == end else f"{start}..{end}"
    lines = [describe(error, f"{table} {span}")]
    if not isinstance(error, UsageError):
        lines.append(f"see it again: ./lake build {table} --from {start} --to {end}")
    return Failure(kind(error), "\n".join(lines))


def describe(error: BaseException, what: str) -> str:
    """That `what` failed, the class of the error, and its cause, as a few lines."""
    return "\n".join([f"{what} failed ({kind(error)} error; {_ADVICE[kind(error)]})", *root_cause(error)])


def root_cause(error: BaseException) -> list[str]:
    """The innermost reason, in at most 20 lines and without the frames of a JVM; then rows that a check has shown."""
    if isinstance(error, LakeError):
        return str(error).splitlines()
    if is_bug(error) and error.__traceback__:
        text = "".join(traceback.format_exception(error))
    elif isinstance(error, OSError) and error.strerror:
        text = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    else:
        text = str(error)
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(("at ", "... "))]
    deeper = [n for n, line in enumerate(lines) if line.startswith("Caused by:")]
    lines = lines[deeper[-1] :] if deeper else lines
    # The last lines of a Python traceback tell the most; a Spark message begins with what it is about.
    if len(lines) > _CAUSE_LINES and lines[0].startswith("Traceback"):
        lines = ["…", *lines[1 - _CAUSE_LINES :]]
    return [line[:_LINE_LENGTH] for line in lines[:_CAUSE_LINES]] or [type(error).__name__]


def first_line(error: BaseException) -> str:
    """The root cause in one line; a bug's traceback ends with what it is."""
    return root_cause(error)[-1 if is_bug(error) else 0]


def _is_of_a_system(error: BaseException) -> bool:
    """Is it from Delta, known by its module, or the operating system?"""
    modules = ("deltalake", "_internal", "pyo3_runtime")
    return isinstance(error, (OSError, MemoryError)) or type(error).__module__.startswith(modules)
