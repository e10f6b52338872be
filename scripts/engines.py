"""`make engines`: every table gives the same rows on Spark and on Sail, whatever rows its sources hold.

The rows are made up from the contracts and from what the SELECTs look for, and are as hostile as their types allow.
Settings: N (300) rows of each source, SEED (a random one), ROUNDS (1). It starts a server of each engine for itself.
"""

import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from include.lake import settings
from include.lake.engine import connect, kinds, sail, server, spark
from include.lake.errors import INFRASTRUCTURE, LakeError
from include.lake.project import contracts, lineage
from include.lake.project.contracts import DROP_REASON, RUN_TIMESTAMP, Column
from include.lake.project.days import day_range
from scripts.options import read_number

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Rows = dict[str, list[dict[str, Any]]]  # table -> rows

FIRST_DAYS = ["2026-03-02", "2026-03-02", "2026-03-02", "2024-02-28", "1969-12-31", "1901-01-01", "9998-12-29"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KST = timedelta(hours=9)
HUGE = [2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63), -1]
DOUBLES = [0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324]
WORDS = [
    "", " ", "0", "1", "2", "007", "-1", "1.5", "1e5", "x\ny", "a|b", "d1", "d1|1", "💜", "\u200b", "é", "e\u0301", "İ",
    "null", "true", "99999999999999999999", "KR", "jp", "12:00", "9999-99-99", "'", '"', "\\", "%", "\x7f",
]  # fmt: skip
IDS = ["1", "2", "14", "d1", "d1|1", "d1|1|2", "0", "1\n", "", "💜"]
# Numbers that both engines write alike: see the contracts.
NUMBERS = ["0", "-1", "1", "2", "7", "14", "17", "2147483648", "12345678901234567", "1.5", "-0.25", "1667314800000"]
NO_VALUES = ["01", "NaN", "+1", ".5", "1.", "Infinity", "0x1", "nul", "a", '"tab\there"', "'x'", "", "1 2"]
# Nesting of a hundred levels and more, and a key that is given twice, are read differently, and nobody writes them.
NESTED = ["[]", "{}", "[1,2]", '["a", "b\\n"]', '{"b": 1.5}', '[{"messageId":"m1"}, null]', "[[[[[[[[1]]]]]]]]"]
BROKEN = ["", " ", "null", "[1]", "17", '"text"', "{'a':1}", "{", "}", "{}", '{"a":1}{"a":2}', "no JSON", "\ufeff{}"]
TAILS = [
    " tail", "}", "]", ",", '{"x":1}', "\x00", " \n", "\u00a0", ',"end":0', ',"x":1', ',{"x":1}', ',"end":0}',
    '],"end":0}', ',"json":[{}]',
]  # fmt: skip


def tables() -> list[str]:
    """The tables that have a SELECT, each after its inputs."""
    return [name for name in lineage.in_order() if lineage.inputs(name)]


# The rows of sources


class Hostile:
    """Makes rows of sources for a range of days. Keys come from small pools, so that joins meet."""

    def __init__(self, chance: random.Random, start: str, end: str, count: int) -> None:
        self.chance, self.start, self.end, self.users = chance, start, end, max(3, count // 4)
        self.days = day_range(*(str(date.fromisoformat(day) + timedelta(days=n)) for day, n in ((start, -3), (end, 1))))
        midnight = datetime.fromisoformat(start).replace(tzinfo=UTC) - KST
        self.moments = [
            midnight + timedelta(seconds=s) for s in (-86400, -0.001, 0, 0.0005, 1, 1800, 3601, 43200, 86399)
        ]
        texts = [lineage.select(name).text for name in lineage.in_order() if lineage.inputs(name)]
        words = {word for text in texts for word in re.findall(r"'((?:[^'\\]|\\.)*)'", re.sub(r"--.*", "", text))}
        # The names in a schema of from_json: `communityId string`, `officialName struct<…`.
        named = re.compile(r"(\w+):? (?:string|struct|array|bigint)")
        self.keys = sorted({key for word in words for key in named.findall(word)})
        plain = sorted(word for word in words if re.fullmatch(r"[\w.-]{1,30}", word))
        # A regular expression becomes a text that it finds.
        fitting = sorted(self._fitting(word) for word in words if "[" in word and len(word) < 60 and "?:" not in word)
        self.words = WORDS + plain * 2 + fitting * 3

    def _fitting(self, pattern: str) -> str:
        text = re.sub(r"\\\\z|[\^$()]", "", pattern)
        text = re.sub(r"\[[^\]]*\]\+?", lambda found: "." if found[0] == "[.]" else "1", text)
        return text.replace("?", "").replace("\\", "")

    def rows(self, table: str, count: int) -> list[dict[str, Any]]:
        contract = contracts.get(table)
        found: list[dict[str, Any]] = []
        for _ in range(count):
            if found and self.chance.random() < 0.3:  # the same row again, or with another value in one place
                row = dict(self.chance.choice(found))
                kind, column = self.chance.random(), self.chance.choice(contract.columns)
                if kind < 0.35:
                    row[column.name] = self.value(column, contract.day_column)
                elif kind < 0.7:
                    row = {name: self.alike(value) for name, value in row.items()}
            else:
                row = {column.name: self.value(column, contract.day_column) for column in contract.columns}
            found.append(row)
        return found

    def alike(self, value: Any) -> Any:
        """A value, or one that many a SELECT takes for the same."""
        if self.chance.random() < 0.8:
            return value
        if isinstance(value, str):
            return self.chance.choice([value.upper(), value.lower(), f"{value} "])
        if isinstance(value, datetime):
            return value.replace(microsecond=value.microsecond // 1000 * 1000 + self.chance.choice([0, 1, 999]))
        return value

    def value(self, column: Column, day_column: str | None) -> Any:
        chance = self.chance
        if column.name == day_column:
            return chance.choice(self.days if chance.random() < 0.3 else day_range(self.start, self.end))
        if column.nullable and chance.random() < 0.12:
            return None
        if column.type.startswith("array<"):
            item = column.model_copy(update={"type": column.type[6:-1], "nullable": True})
            return [self.value(item, None) for _ in range(chance.randint(0, 2))]
        if column.type == "string":
            if column.comment.startswith("JSON"):
                return self.json(re.findall(r'"(\w+)":', column.comment) or self.keys)
            if column.name.endswith(("_id", "key")) and chance.random() < 0.8:
                return chance.choice(IDS)
            return chance.choice(self.words)
        if column.type == "bigint" and "ms since epoch" in column.comment:
            return chance.choice([0, -1, 253402268399999, 253402268400000, 2**63 - 1]) if chance.random() < 0.05 else (
                (self.moment() - EPOCH) // timedelta(milliseconds=1) + chance.choice([0, 0, 1]))  # fmt: skip
        if column.type in ("int", "bigint", "tinyint"):
            bits = {"tinyint": 8, "int": 32, "bigint": 64}[column.type]
            huge = [number for number in HUGE if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)]
            if chance.random() < 0.03:
                return chance.choice(huge)
            # A few communities, and many users: else nearly every user has left, and no row is kept.
            many = column.type == "bigint" and (
                "user" in column.name or "member" in column.name or "log" in column.name
            )
            return chance.randint(0, self.users if many or column.name == "key" else 3)
        if column.type == "double":
            return chance.choice(DOUBLES)
        if column.type == "boolean":
            return chance.random() < 0.5
        if column.type == "date":
            return chance.choice([self.moment().date(), date(1, 1, 1), date(9999, 12, 31)])
        return self.moment()

    def moment(self) -> datetime:
        if self.chance.random() < 0.05:
            before_1970, migration = EPOCH - timedelta(microseconds=1), datetime(2022, 11, 1, 15, tzinfo=UTC)
            return self.chance.choice(
                [datetime(1, 1, 3, tzinfo=UTC), before_1970, migration, datetime(9999, 12, 29, tzinfo=UTC)]
            )
        return self.chance.choice(self.moments) + timedelta(microseconds=self.chance.choice([0, 0, 1000, 999_999]))

    def json(self, keys: list[str], depth: int = 0) -> str:
        """Text of JSON with some of these keys; one in four is broken."""
        chance = self.chance
        if chance.random() < 0.06:
            return chance.choice(BROKEN)
        blank = chance.choice(["", "", " ", "\n "])
        names = chance.sample(keys, chance.randint(min(2, len(keys)), min(8, len(keys))))
        text = f"{{{blank}" + f",{blank}".join(f'"{key}":{blank}{self.json_value(key, depth)}' for key in names) + "}"
        kind = chance.random()
        if kind < 0.06:
            text = text[: chance.randrange(len(text))]
        elif kind < 0.12:
            text += chance.choice(TAILS)
        elif kind < 0.16:
            text = text.replace('"', "'")
        elif kind < 0.22:
            place = chance.randrange(len(text))
            text = text[:place] + chance.choice(['"', "\\", "{", "]", ",", "\n", "\\u12", "é"]) + text[place:]
        return text

    def json_value(self, key: str, depth: int) -> str:
        chance, kind = self.chance, self.chance.random()
        if key in ("request_body", "_request_body") and depth < 2 and kind < 0.7:
            inner = self.json(self.keys, depth + 1)
            return inner if chance.random() < 0.5 else json.dumps(inner, ensure_ascii=chance.random() < 0.5)
        if key in ("officialName", "values") and depth < 2 and kind < 0.8:
            name = {"ko": "하늘", "en": chance.choice(WORDS), "jp": None}
            return json.dumps({"values": name} if key == "officialName" else name)
        if key == "vChannels" and kind < 0.8:
            return json.dumps([chance.choice([1, "1", "a💜", None, 2]) for _ in range(chance.randint(0, 3))])
        if key == "messageList" and kind < 0.8:
            return json.dumps([chance.choice(WORDS), {"m": chance.choice(WORDS)}], ensure_ascii=chance.random() < 0.5)
        if key.endswith("JoinAt") and kind < 0.9:
            return str((self.moment() - EPOCH) // timedelta(milliseconds=1))
        if kind < 0.3:
            return chance.choice(NUMBERS)
        if kind < 0.38:
            return chance.choice(NESTED)
        if kind < 0.5:
            return chance.choice(["true", "false", "null"])
        if kind < 0.53:
            return chance.choice(['"\\\\ud83d"', '"\\ud83d\\udc9c"', '"\\u00e9x"'])
        if kind < 0.55:
            return chance.choice(NO_VALUES)
        return json.dumps(chance.choice(self.words), ensure_ascii=chance.random() < 0.5)


# The rows that both engines compute


def compute(
    spark: "SparkSession", table: str, start: str, end: str, inputs: Rows, again: bool = True
) -> list[tuple[Any, ...]] | str:
    """The rows of a table, timestamps as microseconds, with the reason of those dropped; or the kind of an error."""
    from pyspark.errors import PySparkException

    try:
        return _computed(spark, table, start, end, inputs)
    except PySparkException as error:
        said = f"fails: {str(error).splitlines()[0]}"
        if not again or kinds.of(error) != INFRASTRUCTURE:
            return said
    # Of some ten thousand answers gRPC could not read one. That is no difference of the engines.
    print(f"{table} {said}; once more", flush=True)
    return compute(spark, table, start, end, inputs, again=False)


def _computed(spark: "SparkSession", table: str, start: str, end: str, inputs: Rows) -> list[tuple[Any, ...]]:
    from include.lake.build import cases, runner

    for name in lineage.inputs(table):
        cases.register(spark, name, inputs.get(name, []))
    frame = runner.compute(spark, table, start, end)
    return [tuple(map(_exact, row)) for row in frame.selectExpr(DROP_REASON, *_selected(table)).collect()]


def _columns(table: str) -> list[Column]:
    return [column for column in contracts.get(table).columns if column.name != RUN_TIMESTAMP]


def _selected(table: str) -> list[str]:
    """Times as numbers, because Python has no year after 9999."""
    exact = {"timestamp": "unix_micros({0})", "date": "unix_date({0})"}
    return [exact.get(column.type, "{0}").format(column.name) for column in _columns(table)]


def _exact(value: Any) -> Any:
    """Values that are equal only if they are the same: also NaN, and not 0.0 and -0.0."""
    if isinstance(value, list):
        return tuple(map(_exact, value))
    return repr(value) if isinstance(value, float) else value


def different(engines: list["SparkSession"], table: str, start: str, end: str, inputs: Rows) -> list[str]:
    """What differs between the rows of the two engines; where both fail, nothing.

    The second one gets its input rows in the opposite order: so rows that a SELECT leaves to chance differ mostly.
    """
    from include.lake.build import cases

    opposite = {name: rows[::-1] for name, rows in inputs.items()}
    first, second = (
        compute(engine, table, start, end, rows) for engine, rows in zip(engines, (inputs, opposite), strict=True)
    )
    if isinstance(first, str) or isinstance(second, str):
        if isinstance(first, str) and isinstance(second, str):
            print(f"{table}: both engines say: {first[:200]}", flush=True)
            return []
        return [f"{name}: {rows if isinstance(rows, str) else f'{len(rows)} rows'}"
                for name, rows in (("Spark", first), ("Sail", second))]  # fmt: skip
    names = [DROP_REASON, *(column.name for column in _columns(table))]
    return cases.differences(first, second, names, dict.fromkeys(names, ""))


def smallest(
    engines: list["SparkSession"], table: str, start: str, end: str, inputs: Rows, seconds: float = 60
) -> Rows:
    """Fewer input rows that still make a difference: halves, quarters, … are left out as long as one remains."""
    left = {name: list(inputs.get(name, [])) for name in lineage.inputs(table)}
    size, deadline = max(map(len, left.values())), time.monotonic() + seconds
    while size >= 1:
        for name in left:
            place = 0
            while place < len(left[name]) and time.monotonic() < deadline:
                fewer = {**left, name: left[name][:place] + left[name][place + size :]}
                if different(engines, table, start, end, fewer):
                    left = fewer
                else:
                    place += size
        size //= 2
    return left


def built_rows(spark: "SparkSession", table: str, start: str, end: str, inputs: Rows) -> list[dict[str, Any]]:
    """The rows of a table as rows of an input of the next one."""
    rows = compute(spark, table, start, end, inputs)
    names = [column.name for column in _columns(table)]
    kept = [] if isinstance(rows, str) else [dict(zip(names, row[1:], strict=True)) for row in rows if row[0] is None]
    for column in _columns(table):
        for row in kept if column.type in ("timestamp", "date", "double") else []:
            if row[column.name] is not None and column.type == "double":
                row[column.name] = float(row[column.name])  # see _exact
            elif row[column.name] is not None:
                unit = timedelta(microseconds=1) if column.type == "timestamp" else timedelta(days=1)
                moment = EPOCH + row[column.name] * unit
                row[column.name] = moment if column.type == "timestamp" else moment.date()
    return kept


def compare(engines: list["SparkSession"], count: int, seed: int) -> list[str]:
    """One round: the lines that say what differs, with the rows that make the difference."""
    chance = random.Random(seed)
    start = chance.choice(FIRST_DAYS)
    end = str(date.fromisoformat(start) + timedelta(days=chance.choice([0, 0, 1, 2])))
    hostile = Hostile(chance, start, end, count)
    rows: Rows = {}
    lines: list[str] = []
    for table in lineage.in_order():
        if not lineage.inputs(table):
            rows[table] = hostile.rows(table, count)
            continue
        began = time.monotonic()
        if found := different(engines, table, start, end, rows):
            print("\n".join(found[:20]), flush=True)
            left = smallest(engines, table, start, end, rows)
            lines += [f"{table} {start}..{end}, seed {seed}: {len(found)} lines differ; the smallest case:"]
            for name, few in left.items():
                given = [{key: value for key, value in row.items() if value is not None} for row in few]
                lines += [f"  {name}: {row}" for row in given]
            lines += [f"  {line}" for line in different(engines, table, start, end, left)[:20]]
        # Only rows that the table can hold make sense as the input of another one.
        rows[table] = built_rows(engines[0], table, start, end, rows)
        print(f"{table} {start}..{end}: {len(rows[table]):,} rows, {'DIFFERENT' if found else 'equal'} "
              f"({time.monotonic() - began:.1f} s)", flush=True)  # fmt: skip
    return lines


@contextmanager
def sessions() -> Iterator[list["SparkSession"]]:
    """A session of Spark and one of Sail, each of a server of its own."""
    found, homes = [], []
    try:
        for engine, side in (settings.SPARK, spark), (settings.SAIL, sail):
            homes.append(tempfile.mkdtemp(prefix="lake-engines-"))
            os.environ["LAKE_HOME"] = homes[-1]
            address = server.start(engine, lambda line: print(line, flush=True))
            found.append(connect.connect(address, side.SESSION_CONF, settings.engine_token()))
        yield found
    finally:
        for session in found:
            session.stop()
        for home in homes:
            os.environ["LAKE_HOME"] = home
            server.stop(patience=0)
            shutil.rmtree(home, ignore_errors=True)


def main() -> int:
    count, rounds = read_number("N", 300, int), read_number("ROUNDS", 1, int)
    seed = read_number("SEED", random.SystemRandom().randrange(10**6), int)
    print(f"SEED={seed} N={count} ROUNDS={rounds}", flush=True)
    with sessions() as engines:
        lines = [line for n in range(rounds) for line in compare(engines, count, seed + n)]
    print("\n".join(lines) if lines else "every table has the same rows on both engines")
    return 1 if lines else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LakeError as error:
        sys.exit(f"ERROR: {error}")
