"""Values from files as the types of a contract. Each value is kept exactly, or refused with the reason."""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from include.lake.project.contracts import Column

_INTEGERS = {"tinyint": 8, "int": 32, "bigint": 64}
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)
_DIGITS = re.compile(r"\d+(\.\d+)?", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
# Arrow converts these Python types itself, and checks range and encoding. We convert all other values one by one.
_PLAIN: dict[str, set[type]] = {"string": {str}, "boolean": {bool}, "double": {float, int}}
_PLAIN |= {kind: {int} for kind in _INTEGERS}
# The first and the last value that Python can represent, as Arrow's numbers. We could not show others to a user.
_YEARS = {
    "date": [pa.scalar(day).value for day in (date.min, date.max)],
    "timestamp": [pa.scalar(moment).value for moment in (datetime.min, datetime.max)],
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Unfit(ValueError):
    """The reason why a column cannot hold a value."""


class Number(Decimal):
    """A number of JSON that a float cannot hold exactly."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has one key twice")
    return value


def _number(text: str) -> float | Number:
    """A float, if it is the number of the text."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too big")
    # A float holds 15 digits of each number that is not tiny. Both questions save time: Decimals are slow.
    if (len(text) <= 16 and abs(value) > 1e-300) or (shown := repr(value)) == text:
        return value
    try:
        exact = Number(text)
    except ArithmeticError:
        raise ValueError("a number is too small") from None
    return value if exact == Decimal(shown) else exact


# Reads JSON so that no value changes: ValueError for what Python cannot hold, or would hold as something else.
JSON = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number)


def as_column(column: Column, wanted: pa.DataType, values: Any, is_day: bool) -> tuple[pa.Array, dict[int, str]]:
    """Convert `values` (a list or an Arrow array) to the type `wanted`. Gives the array, and row -> reason of misfits.

    The array has a null for each value that does not fit.
    """
    if isinstance(values, pa.Array):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if _can_cast(column.type, values.type, is_day):
            wrong: dict[int, str] = {}
            pieces = _cast(column, wanted, values, 0, wrong)
            return pa.concat_arrays(pieces) if len(pieces) > 1 else pieces[0], wrong
        values = [_python(value) for value in values]
    elif set(map(type, values)) <= _PLAIN.get(column.type, set()) | {type(None)}:
        try:
            return pa.array(values, wanted), {}
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass  # some value does not fit; the loop below finds it
    held, wrong = [], {}
    for row, value in enumerate(values):
        try:
            held.append(as_value(column, value))
        except Unfit as error:
            held.append(None)
            wrong[row] = str(error)
    return pa.array(held, wanted), wrong


def as_value(column: Column, value: Any) -> Any:
    """One value as a Python value of the column's type; Unfit with the reason.

    An empty text is null in a column of another type than string: CSV has no other null, and programs write it as JSON.
    """
    if value is None or (value == "" and column.type != "string"):
        return None
    try:
        return _since_1970(value) if column.unit else _value(column.type, value)
    except (ValueError, TypeError, OverflowError, ArithmeticError, RecursionError) as error:
        raise Unfit(reason(column, value, str(error) if isinstance(error, Unfit) else None)) from None


def reason(column: Column, value: Any, problem: str | None = None) -> str:
    """The reason for a refused value. It shows the value, unless the column is sensitive."""
    if isinstance(value, Unfit):
        return f"{column.name}: {value}"
    if isinstance(value, (dict, list)):
        shown = "a list" if isinstance(value, list) else "an object"
    else:
        shown = "'***'" if column.sensitive else repr(str(value)[:60])
    return f"{column.name}: {shown} {problem or f'is not {column.type}'}"


def _can_cast(kind: str, source: pa.DataType, is_day: bool) -> bool:
    """May Arrow cast `source` to the column's type? Arrow refuses a cast that would lose something."""
    types = pa.types
    checks: dict[str, list[Callable[[pa.DataType], bool]]] = {
        "string": [
            *(types.is_string, types.is_large_string, types.is_string_view),
            # Old Hive and Impala have no text type, so they write texts as bytes.
            *(types.is_binary, types.is_large_binary, types.is_binary_view),
            *([types.is_date] if is_day else []),
        ],
        "double": [types.is_floating, types.is_integer],
        "boolean": [types.is_boolean],
        "date": [types.is_date, lambda source: types.is_timestamp(source) and source.tz is None],
        "timestamp": [types.is_timestamp, types.is_date],
    }
    whole = [types.is_integer, types.is_decimal, types.is_floating]
    options = whole if kind in _INTEGERS else checks.get(kind, [])
    return types.is_null(source) or any(check(source) for check in options)


def _cast(column: Column, wanted: pa.DataType, values: pa.Array, first: int, wrong: dict[int, str]) -> list[pa.Array]:
    """Cast all values. If that fails, cast each half, down to the one wrong value."""
    source = values
    try:
        if pa.types.is_date(source.type):
            source = source.cast(pa.date32())
            source = source.cast(pa.timestamp("s")) if column.type == "timestamp" else source
        held = source.cast(wanted)
        held.validate(full=True)
        if column.type == "date" and held.cast(source.type) != source:
            raise pa.ArrowInvalid("has a time of day")
        if column.type in _YEARS:
            first_value, last_value = _YEARS[column.type]
            ends = pc.min_max(held.cast(pa.int32() if column.type == "date" else pa.int64())).as_py()
            if ends["min"] is not None and (ends["min"] < first_value or ends["max"] > last_value):
                raise pa.ArrowInvalid("is out of range")
        return [held]
    except pa.ArrowInvalid:
        if len(values) == 1:
            wrong[first] = reason(column, _shown(values))
            return [pa.nulls(1, wanted)]
    half = len(values) // 2
    return _cast(column, wanted, values[:half], first, wrong) + _cast(
        column, wanted, values[half:], first + half, wrong
    )


def _shown(values: pa.Array) -> Any:
    """The one value as text for people. Arrow's text also has days that Python cannot represent."""
    if not pa.types.is_temporal(values.type):
        return _python(values[0])
    try:
        return str(values.cast(pa.string())[0])
    except pa.ArrowInvalid:  # a time zone that this machine does not know
        return values[0].value


def _python(value: pa.Scalar) -> Any:
    """An Arrow value as a Python value; a map becomes a dict. Unfit, with the reason, if Python cannot represent it."""
    try:
        return value.as_py(maps_as_pydicts="strict")
    except UnicodeDecodeError:
        return Unfit("is no UTF-8")
    except KeyError as error:
        # Of another kind is the error for a time zone that this machine does not know.
        return Unfit("has one key twice" if type(error) is KeyError else f"is a {value.type} that can't be held")
    except (ValueError, OverflowError, pa.ArrowException):
        return Unfit(f"is a {value.type} that can't be held")


def _value(kind: str, value: Any) -> Any:
    """Convert a value of JSON, CSV or Parquet to the type `kind`; ValueError if it does not fit."""
    if isinstance(value, Unfit):
        raise value
    if kind.startswith("array<"):
        items = _items(value) if isinstance(value, str) else value
        if not isinstance(items, list):
            raise ValueError
        return [None if item is None else _value(kind[6:-1], item) for item in items]
    if kind == "string":
        if isinstance(value, (dict, list)):  # the columns of the sources keep JSON as text
            try:
                value = _json(value)
            except (ValueError, TypeError, RecursionError) as error:
                raise Unfit(f"is not JSON that can be held: {error}") from None
        if isinstance(value, UUID):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit("has half a surrogate pair") from None
        return value
    if kind in _INTEGERS:
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            value = int(value.partition(".")[0])
        elif isinstance(value, (float, Decimal)) and value == int(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value >> _INTEGERS[kind] - 1 <= 0:
            raise ValueError
        return value
    if kind == "double":
        return _double(value)
    if kind == "boolean":
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ValueError
        return value
    if kind == "date":
        return value if type(value) is date else date.fromisoformat(value)
    return _timestamp(value)


def _items(text: str) -> Any:
    """An array that is written as JSON, as CSV has it."""
    try:
        return JSON.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise Unfit(f"is not JSON that can be held: {str(error).split(';')[0]}") from None


def _double(value: Any) -> float:
    if isinstance(value, Number):
        value = str(value)  # many programs write a float with more digits than it has, in JSON as in CSV
    if isinstance(value, bool) or (isinstance(value, str) and not _DECIMAL.fullmatch(value)):
        raise ValueError
    number = float(value)
    if isinstance(value, str) and number in (float("inf"), float("-inf")) and "n" not in value.lower():
        raise Unfit("is too big for double")
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value.partition(".")[0])
    # A whole number must keep every digit. A decimal must keep the digits that a double shows.
    if (isinstance(value, int) and number != value) or (isinstance(value, Decimal) and Decimal(repr(number)) != value):
        raise Unfit("has more digits than double can hold")
    return number


def _timestamp(value: Any) -> datetime:
    """Convert to a timestamp. A text or time without a zone is UTC, as everywhere in the lake."""
    if isinstance(value, str):
        if _DIGITS.fullmatch(value):  # 1711012012345 is also 23:45 of a day of 1711
            raise Unfit("is a number: write `unit: ms` at this column of the contract, if it counts milliseconds")
        fraction = re.search(r"[.,](\d+)", value)
        if fraction and fraction[1][6:].strip("0"):
            raise Unfit("has more digits than a timestamp can hold (microseconds)")
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError
    if getattr(value, "nanosecond", 0):  # only pandas timestamps have nanoseconds
        raise Unfit("has more digits than a timestamp can hold (microseconds)")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _since_1970(value: Any) -> datetime:
    """Convert to a timestamp; a number, also one that is written as a text, is milliseconds since 1970 (UTC).

    CSV has texts alone. A text of digits is never a date here: 1711012012345 is also 23:45 of a day of 1711.
    """
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        number: Any = int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else None
    elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        number = int(value) if value == value // 1 else None  # not so for a fraction, and NaN
    else:
        return _timestamp(value)
    if number is None:
        raise Unfit("is no whole number of milliseconds")
    try:
        return _EPOCH + timedelta(milliseconds=number)
    except OverflowError:
        raise Unfit("is out of range: it counts milliseconds since 1970") from None


def _json(value: Any) -> str:
    """The value as JSON text. Types that JSON lacks are written as Spark's to_json writes them; bytes are refused."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except TypeError:
        pass  # the value contains a date, a Decimal, …
    if isinstance(value, dict):
        keys = (json.dumps(name if isinstance(name, str) else str(name), ensure_ascii=False) for name in value)
        items = zip(keys, value.values(), strict=True)
        return "{" + ", ".join(f"{name}: {_json(item)}" for name, item in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    if isinstance(value, Number):
        return str(value)  # as short as the file has it: a tiny number would have many zeros
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return json.dumps(_timestamp(value).isoformat().replace("+00:00", "Z"))
    if isinstance(value, (date, UUID)):
        return json.dumps(str(value))
    raise Unfit(f"it has {type(value).__name__} in it")
