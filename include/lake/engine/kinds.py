"""The class of an error of PySpark, which follows from its SQLSTATE, and of a conflict from its name."""

import re

from include.lake.errors import CODE, CONFLICT, DATA, INFRASTRUCTURE

_CLASSES = {
    # What the kinds of SQLSTATE mean: https://spark.apache.org/docs/latest/sql-error-conditions-sqlstates.html
    "07": CODE,  # dynamic SQL
    "0A": CODE,  # not supported
    "21": DATA,  # one row was expected and several came
    "22": DATA,  # a value that cannot be cast, divided by, indexed with …
    "23": DATA,  # a constraint of the table
    "2D": CONFLICT,  # Delta: somebody else committed in between
    # A function of ours on some value. Spark says 38 of Python functions and 39 of others; other days may do well.
    "38": DATA,
    "39": DATA,
    "40": CONFLICT,  # a transaction that was rolled back
    "42": CODE,  # syntax, names, types
    "44": DATA,  # Delta: a row outside the range that is replaced
    "46": CODE,  # a class or a setting that Spark has not
    "54": DATA,  # a limit on what one row or one job may hold
    "P0": DATA,  # raise_error() in a SELECT
}
# How Delta says that someone else committed in between. Through Connect only the name in the text survives.
_CONFLICTS = (
    "DELTA_CONCURRENT", "ConcurrentAppend", "ConcurrentDelete", "ConcurrentWrite", "DELTA_METADATA_CHANGED",
    "DELTA_PROTOCOL_CHANGED", "TABLE_OR_VIEW_ALREADY_EXISTS",
    # Of an input that nobody wrote for a week, and somebody does now: what we read is not the newest version any more.
    "BEYOND_DELETED_FILE_RETENTION",
)  # fmt: skip
# The state of an error of values that has none: Sail has classes of errors alone.
OF_DATA = "22000"
# What Sail puts around an error of values where it computes a filter while it reads a file. Then come the kind of the
# error, and mostly what is wrong, in quotes.
_IN_FILTER = re.compile(r"\A(External: )?(Compute error: )?Error evaluating filter predicate: ")
_QUOTED = re.compile(r'(?:ArrowError\()?(\w+)\("((?:[^"\\]|\\.)*)"\)')
_SHOWN_AS = {"CastError": "Cast error: ", "ComputeError": "Compute error: ", "ParseError": "Parser error: ",
             "ArithmeticOverflow": "Arithmetic overflow: ",
             "InvalidArgumentError": "Invalid argument error: "}  # fmt: skip
_SQLSTATE = re.compile(r"\bSQLSTATE: (\w\w)")


def of(error: BaseException) -> str | None:
    """The class of an error, also where it is the text of another error; None for errors of something else."""
    if any(name in str(error) for name in _CONFLICTS):
        return CONFLICT
    # By name, so that a failure is explained without importing Spark.
    is_spark = any(base.__name__ == "PySparkException" for base in type(error).__mro__)
    state = getattr(error, "getSqlState", lambda: None)() if is_spark else None
    if not state and (in_text := _SQLSTATE.search(str(error))):
        state = in_text[1]
    if state:
        return _CLASSES.get(state[:2], INFRASTRUCTURE)
    # An error without a state is one of the engine or its machine, and not of what it was asked for.
    return INFRASTRUCTURE if is_spark or type(error).__module__.startswith("grpc") else None


def plain(message: str) -> str:
    """The message of an error in a filter of Sail, as the same error is shown elsewhere; other messages as they are."""
    if not (around := _IN_FILTER.match(message)):
        return message
    inner = message[around.end() :]
    if quoted := _QUOTED.match(inner):
        text = re.sub(r"\\(.)", lambda escaped: {"n": "\n", "t": "\t"}.get(escaped[1], escaped[1]), quoted[2])
        return _SHOWN_AS.get(quoted[1], "") + text
    if inner.startswith("ArrowError(DivideByZero"):
        return "Divide by zero error"
    return re.sub(r"\A(\w+\()*[\s~]*", "", inner)  # External(Syntax(, a line of ~, and what is wrong
