"""Files into sources: which days are replaced, what is refused, and that a refusal writes nothing."""

import bz2
import gzip
import json
import os
import re
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from include.lake.build import files, values
from include.lake.build.load import _checked, load
from include.lake.cli import main as cli
from include.lake.errors import LakeError, UsageError
from include.lake.project import contracts
from include.lake.storage import delta_files as storage

LOG = "service_log.weverse_server_log"
NOTICE = "weverse2.community_content_common_notice"


def rows(table: str) -> list[dict]:
    delta = storage.open_table(table)
    assert delta is not None
    return delta.to_pyarrow_table().to_pylist()


def json_lines(path: Path, *objects: dict | str) -> str:
    path.write_text("\n".join(o if isinstance(o, str) else json.dumps(o) for o in objects) + "\n")
    return str(path)


def test_just_the_days_of_the_files_are_replaced(lake_home: Path, tmp_path: Path) -> None:
    first = json_lines(tmp_path / "a.jsonl", *({"date_id": f"2026-01-0{n}", "topic": "old"} for n in (4, 5, 6)))
    second = json_lines(tmp_path / "b.jsonl", {"date_id": "2026-01-04", "topic": "new"})
    third = json_lines(tmp_path / "c.jsonl", {"date_id": "2026-01-06", "topic": "new"})
    assert load(LOG, [first]).days == ["2026-01-04", "2026-01-05", "2026-01-06"]
    assert load(LOG, [second, third]).days == ["2026-01-04", "2026-01-06"]
    found = sorted((row["date_id"], row["topic"]) for row in rows(LOG))
    assert found == [("2026-01-04", "new"), ("2026-01-05", "old"), ("2026-01-06", "new")]


def test_a_source_without_days_is_replaced_whole(lake_home: Path, tmp_path: Path) -> None:
    load(NOTICE, [json_lines(tmp_path / "a.jsonl", {"id": "1", "parent_id": "community-1"}, {"id": "2"})])
    load(NOTICE, [json_lines(tmp_path / "b.jsonl", {"id": "3"})])
    assert rows(NOTICE) == [{"id": "3", "parent_id": None}]


@pytest.mark.parametrize("again", ["in/a.jsonl", "in/../in/a.jsonl", "link.jsonl", "hard.jsonl", "in", "linked"])
def test_a_file_that_is_named_twice_is_refused(lake_home: Path, tmp_path: Path, again: str) -> None:
    """Stands for: each path to one file, for its rows would be there twice."""
    (tmp_path / "in").mkdir()
    file = json_lines(tmp_path / "in" / "a.jsonl", {"id": "1"})
    (tmp_path / "link.jsonl").symlink_to(file)
    (tmp_path / "hard.jsonl").hardlink_to(file)
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    other = json_lines(tmp_path / "copy.jsonl", {"id": "1"})
    with pytest.raises(UsageError, match=r"is named twice.*: nothing was loaded; name it once"):
        load(NOTICE, [file, other, str(tmp_path / again)])
    assert storage.open_table(NOTICE) is None
    assert load(NOTICE, [file, other]).rows == 2


def test_a_file_of_a_folder_that_is_named_too_is_refused(lake_home: Path, tmp_path: Path) -> None:
    """A Delta table is such a folder, too."""
    two = pa.table({"id": ["1", "2"]})
    (tmp_path / "in").mkdir()
    pq.write_table(two, tmp_path / "in" / "part.parquet")
    write_deltalake(tmp_path / "delta", two)
    (tmp_path / "link.parquet").symlink_to(tmp_path / "in" / "part.parquet")
    (part,) = (tmp_path / "delta").glob("*.parquet")
    folder, delta = str(tmp_path / "in"), str(tmp_path / "delta")
    (tmp_path / "hard.parquet").hardlink_to(part)
    named = [folder, f"{folder}/part.parquet"]
    for paths in (named, named[::-1]):
        with pytest.raises(UsageError, match=rf"^{named[1]} is named twice \(it is in {named[0]}, too\): "):
            load(NOTICE, paths)
    for paths in ([folder, str(tmp_path / "link.parquet")], [delta, str(tmp_path / "hard.parquet")]):
        with pytest.raises(UsageError, match=r"is named twice \(it is .*, too\): nothing was loaded"):
            load(NOTICE, paths)
    for paths in ([delta, str(part)], [str(part), delta]):
        with pytest.raises(UsageError, match=rf"^{delta} is a Delta table, .*: nothing was loaded; "):
            load(NOTICE, paths)
    assert storage.open_table(NOTICE) is None
    assert load(NOTICE, [delta, f"{folder}/part.parquet"]).rows == 4


def test_a_folder_of_old_and_new_files_of_a_delta_table_is_refused(lake_home: Path, tmp_path: Path) -> None:
    """Rows that the table has no more would come back."""
    delta = tmp_path / "in" / "delta"
    for rows_of_table in ({"id": ["1", "2"], "parent_id": ["a", "a"]}, {"id": ["3"], "parent_id": ["a"]}):
        write_deltalake(delta, pa.table(rows_of_table), partition_by="parent_id", mode="overwrite")
    old = next(delta.rglob("*.parquet"))
    for name, target in {"folder link": delta / "parent_id=a", "link.parquet": old}.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "link.parquet").symlink_to(old)
    ways = ["in", "in/delta/parent_id=a", "folder link", "link.parquet", "links", str(old)]
    for folder in (tmp_path / way for way in ways):
        with pytest.raises(UsageError, match=f"^{delta} is a Delta table, .*nothing was loaded; name the table's own"):
            load(NOTICE, [str(folder)])
    assert storage.open_table(NOTICE) is None
    load(NOTICE, [str(delta)])
    assert rows(NOTICE) == [{"id": "3", "parent_id": "a"}]


def test_links_in_a_folder_are_followed_and_what_cannot_be_read_is_refused(lake_home: Path, tmp_path: Path) -> None:
    """Stands for: each row below a folder is loaded, or the load stops. A day would be called empty else."""
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    json_lines(tmp_path / "in" / "a.jsonl", {"id": "1"})
    json_lines(tmp_path / "other" / "b.jsonl", {"id": "2"})
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    assert load(NOTICE, [str(tmp_path / "in")]).rows == 2
    odd = tmp_path / "in" / "c.jsonl"
    for make, told in {
        lambda: odd.symlink_to(tmp_path / "nowhere"): "is no file, or a link to nothing",
        lambda: os.mkfifo(odd): "is no file, or a link to nothing",
        lambda: odd.symlink_to(tmp_path / "in"): "leads to .*/in, which is read already",
    }.items():
        make()
        with pytest.raises(UsageError, match=f"^{odd} {told}.*: nothing was loaded; "):
            load(NOTICE, [str(tmp_path / "in")])
        odd.unlink()
    with pytest.raises(UsageError, match=r"nowhere does not exist$"):
        load(NOTICE, [str(tmp_path / "nowhere")])


def test_the_three_formats_say_the_same(lake_home: Path, tmp_path: Path) -> None:
    table = "we_mart.wv_user_ctry_history"
    row = {"user_id": 7, "country": "KR", "created_at": "2026-01-05T09:00:00+09:00", "part_date": "2026-01-05"}
    (tmp_path / "a.csv").write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    json_lines(tmp_path / "a.jsonl", row)
    # Parquet as other engines write it: smaller whole numbers, a timestamp without a zone (which is UTC).
    at = pa.array([pa.scalar(1767571200000, pa.timestamp("ms"))])
    parquet = pa.table(
        {"user_id": pa.array([7], pa.int32()), "created_at": at, "country": ["KR"], "part_date": ["2026-01-05"]}
    )
    pq.write_table(parquet, tmp_path / "a.parquet")
    found = []
    for kind in ("csv", "jsonl", "parquet"):
        load(table, [str(tmp_path / f"a.{kind}")])
        found.append(rows(table))
    assert found[0] == found[1] == found[2]
    assert str(found[0][0]["created_at"]) == "2026-01-05 00:00:00+00:00"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"topic": "x"}, "date_id is missing"),
        ({"date_id": "2026-02-30"}, "date_id: '2026-02-30' is not a day"),
        ({"date_id": "../../x"}, "date_id: '../../x' is not a day"),
        ({"date_id": "2026-01-05", "unix_log_timestamp": "soon"}, "unix_log_timestamp: 'soon' is not bigint"),
        ({"date_id": "2026-01-05", "unix_log_timestamp": 2**63}, "is not bigint"),
        ({"date_id": "2026-01-05", "unix_log_timestamp": True}, "is not bigint"),
        ({"date_id": "2026-01-05", "topic": 5}, "topic: '5' is not string"),
        ("{broken", "is not JSON"),
        ("[1]", "is not an object with columns"),
    ],
)
def test_bad_rows_are_refused_with_their_lines_or_dropped_and_counted(
    lake_home: Path, tmp_path: Path, bad: dict | str, told: str
) -> None:
    good = {"date_id": "2026-01-05", "unix_log_timestamp": -(2**63)}
    file = json_lines(tmp_path / "a.jsonl", good, bad, good)
    with pytest.raises(LakeError) as error:
        load(LOG, [file])
    assert f"{file}:2: " in str(error.value) and told in str(error.value)
    assert storage.open_table(LOG) is None, "nothing may be written"
    result = load(LOG, [file], drop_bad=True)
    assert (result.rows, result.dropped) == (2, 1)


@pytest.mark.parametrize(
    ("table", "file", "told"),
    [
        ("we_mart.wv_sess_daily", "a.jsonl", "is built from its SELECT, not loaded"),
        ("we_mart.nothing", "a.jsonl", "there is no table"),
        (
            "rudder.dbt_top_users_by_avg_session_duration",
            "a.jsonl",
            r"is a view, nothing is loaded .*: \./lake show rud",
        ),
        (NOTICE, "missing.jsonl", "does not exist"),
        (NOTICE, "a.xlsx", "load reads"),
        (NOTICE, "a.parquet", "can't be read as parquet"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    lake_home: Path, tmp_path: Path, table: str, file: str, told: str
) -> None:
    for name in ("a.jsonl", "a.xlsx", "a.parquet"):
        (tmp_path / name).write_text("{}\n")
    with pytest.raises(UsageError, match=told):
        load(table, [str(tmp_path / file)])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "jsonl.gz"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lambda data: pa.compress(data, "zstd", asbytes=True)])
def test_a_packed_file_is_to_be_unpacked(lake_home: Path, tmp_path: Path, kind: str, pack: Any) -> None:
    (tmp_path / f"a.{kind}").write_bytes(pack(b'{"id": "1"}\n'))
    with pytest.raises(UsageError, match=r"is packed with (gzip|bzip2|zstd): unpack it first$"):
        load(NOTICE, [str(tmp_path / f"a.{kind}")])


@pytest.mark.parametrize("text", ['[{"id": "1"}]', '\n[\n  {"id": "1"}\n]', '[ {"id": "1"},\n{"id": "2"}]', "[]"])
def test_an_array_of_json_is_told_at_once(lake_home: Path, tmp_path: Path, text: str) -> None:
    file = json_lines(tmp_path / "a.json", text)
    with pytest.raises(UsageError, match=r"begins a JSON array: write one object per line, without \[ and \]$"):
        load(NOTICE, [file], drop_bad=True)


SHOP = """
about: Things of all types.
partitioned_by: [day]
columns:
  - {name: text, type: string}
  - {name: small, type: tinyint}
  - {name: whole, type: bigint}
  - {name: number, type: double}
  - {name: flag, type: boolean}
  - {name: born, type: date}
  - {name: at, type: timestamp}
  - {name: tags, type: array<string>}
  - {name: secret, type: bigint, sensitive: true}
  - {name: day, type: string}
"""
THING = "shop.thing"
DAY = "2026-01-05"


@pytest.fixture
def shop(lake_home: Path, project: Any) -> None:
    project({"shop/thing.yaml": SHOP, "shop/place.yaml": SHOP.replace("[day]", "[text, day]")})


def write(path: Path, content: str | bytes | pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def days(table: str = THING) -> dict[str, int]:
    snapshot = storage.open(table)
    return {day: of.rows for day, of in storage.days(snapshot, contracts.get(table)).items()} if snapshot else {}


def metadata(table: str = THING) -> dict[str, Any]:
    delta = storage.open_table(table)
    assert delta is not None
    return json.loads(delta.history(1)[0]["userMetadata"])


def things(**count: int) -> str:
    """JSON lines with that many rows of each day: things(d05=3)."""
    return "".join(
        f'{{"day": "2026-01-{day[1:]}", "whole": {n}}}\n' for day, rows in count.items() for n in range(rows)
    )


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "text;whole;day\nx;1;2026-01-05\n", "separate the columns with commas, not ';'"),
        ("a.csv", "Text,day\nx,2026-01-05\n", "'Text' (is it text?)"),
        ("a.csv", "texts,wole,day\n", "no column 'texts' (is it text?), 'wole' (is it whole?)"),
        ("a.csv", "text,day,text\nx,2026-01-05,y\n", "has text twice"),
        ("a.csv", "2026-01-05,7\n2026-01-05,8\n", "no column '2026-01-05', '7'"),
        (
            "a.jsonl",
            '{"day": "2026-01-05"}\n{"day": "2026-01-05", "txt": 1}\n{"dy": 1}\n',
            "a.jsonl:2: shop.thing has no",
        ),
        ("a.jsonl", '{"day": "2026-01-05"}\n{"txt": 1}\n{"txt": 1, "xyz": 1}\n', "'txt' (is it text?), 'xyz'"),
        ("a.parquet", pa.table({"day": [DAY], "wholes": [1]}), "'wholes' (is it whole?)"),
        ("a.parquet", pa.table([[DAY], [1], [2]], ["day", "whole", "whole"]), "has whole twice"),
        ("dy=2026-01-05/a.csv", "whole\n1\n", "'dy' (is it day?)"),
    ],
)
def test_a_file_with_other_names_is_refused(
    shop: None, tmp_path: Path, name: str, content: str | pa.Table, told: str
) -> None:
    write(tmp_path / "in" / name, content)
    with pytest.raises(UsageError) as error:
        load(THING, [str(tmp_path / "in")])
    assert told in str(error.value) and "nothing was loaded" in str(error.value)
    assert storage.open_table(THING) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "whole,wohl,day\n7,x,2026-01-05\n"),
        ("a.jsonl", '{"whole": 7, "wohl": "x", "day": "2026-01-05"}'),
        ("a.parquet", pa.table({"day": [DAY], "whole": [7], "wohl": ["x"]})),
    ],
)
def test_other_columns_are_ignored_on_demand_but_not_all_of_them(
    shop: None, tmp_path: Path, name: str, content: str | pa.Table
) -> None:
    loaded = load(THING, [write(tmp_path / name, content)], ignore_columns=True)
    assert [(row["whole"], row["day"]) for row in rows(THING)] == [(7, DAY)]
    assert loaded.no_values == ["text", "small", "number", "flag", "born", "at", "tags", "secret"]
    for other, alone in (("b.csv", "x,y\n1,2\n"), ("b.jsonl", '{"x": 1}'), ("b.parquet", pa.table({"x": [1]}))):
        with pytest.raises(UsageError, match=r"has none of the columns of shop\.thing"):
            load(THING, [write(tmp_path / other, alone)], ignore_columns=True)


def test_lines_with_keys_of_their_own_take_no_more_time_at_the_end(
    shop: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, see = [], files.Names.see
    monkeypatch.setattr(files.Names, "see", lambda self, keys, at: (seen.append(len(keys)), see(self, keys, at))[1])
    lines = [{"day": DAY, f"key {number}": number} for number in range(100)]
    file = json_lines(tmp_path / "a.jsonl", *lines, {"text": "x", "day": DAY})
    assert load(THING, [file], ignore_columns=True).now == {DAY: 101}
    assert [row["text"] for row in rows(THING) if row["text"]] == ["x"]
    assert max(seen) == 2, "the new key, and that of the day"


def test_a_byte_order_mark_is_no_part_of_a_name(shop: None, tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", "day,whole\n2026-01-05,1\n"),
        ("b.csv", '"day"\n2026-01-05\n'),
        ("a.jsonl", things(d05=1)),
    ):
        assert load(THING, [write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())]).now == {DAY: 1}
    with pytest.raises(UsageError, match="is UTF-16"):
        load(THING, [write(tmp_path / "c.csv", "day\n2026-01-05\n".encode("utf-16"))])


@pytest.mark.parametrize("content", ["", "\n", '{"id": 5}\n', "{broken\n"])
def test_a_table_is_emptied_only_on_demand(lake_home: Path, tmp_path: Path, content: str) -> None:
    load(NOTICE, [write(tmp_path / "a.jsonl", '{"id": "1"}\n{"id": "2"}\n')])
    file = write(tmp_path / "b.jsonl", content)
    with pytest.raises(LakeError, match=r"no file has rows of .* nothing was loaded.*--allow-empty"):
        load(NOTICE, [file], drop_bad=True)
    assert len(rows(NOTICE)) == 2
    assert load(NOTICE, [file], drop_bad=True, allow_empty=True).now == {"": 0}
    assert rows(NOTICE) == [] and metadata(NOTICE)["loaded"] == {"": 0}


def test_a_day_whose_rows_are_all_bad_is_not_empty(shop: None, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", things(d05=2) + '{"day": "2026-01-06", "whole": "x"}\n')
    span = ["2026-01-05", "2026-01-06"]
    with pytest.raises(LakeError, match="every row of 2026-01-06 is bad: nothing was loaded"):
        load(THING, [file], drop_bad=True, days=span)
    assert days() == {}
    assert load(THING, [file], drop_bad=True, days=span, allow_empty=True).empty_days == ["2026-01-06"]


def test_which_days_are_empty_has_to_be_said(shop: None, tmp_path: Path) -> None:
    """Stands for: what the message asks for is what the load takes."""
    none, bad = write(tmp_path / "a.jsonl", ""), write(tmp_path / "b.jsonl", '{"day": "2026-01-05", "whole": "x"}\n')
    for allowed in (False, True):
        with pytest.raises(LakeError, match=r"nothing was loaded; --from D --to D says which days are empty$"):
            load(THING, [none], allow_empty=allowed)
        with pytest.raises(LakeError, match=r"but 1 bad .*; --from D --to D --allow-empty says which days are empty$"):
            load(THING, [bad], drop_bad=True, allow_empty=allowed)
    assert load(THING, [none], days=[DAY]).empty_days == [DAY]
    assert load(THING, [bad], drop_bad=True, days=[DAY], allow_empty=True).empty_days == [DAY]


NS, MS = pa.timestamp("ns"), pa.timestamp("ms", "Asia/Seoul")
NOWHERE = pa.timestamp("ms", "No/Where")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
MAP = pa.map_(pa.string(), pa.int64())
DEEP = pa.struct([("m", MAP), ("price", pa.decimal128(9, 2)), ("at", NS), ("day", pa.date32())])
BAD_TEXT = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])


@pytest.mark.parametrize(
    ("column", "values", "held"),
    [
        ("text", pa.array(["é"], pa.large_string()), "é"),
        ("text", pa.array(["é"]).dictionary_encode(), "é"),
        ("text", pa.array(["é".encode()], pa.binary()), "é"),
        ("text", pa.array([bytes(range(16))], pa.uuid()), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ("text", pa.nulls(1), None),
        ("text", pa.array([[("a", 1), ("b", None)]], MAP), '{"a": 1, "b": null}'),
        ("text", pa.array([[{"a": "é"}]], pa.list_(pa.struct([("a", pa.string())]))), '[{"a": "é"}]'),
        (
            "text",
            pa.array([{"m": [("k", 1)], "price": Decimal("1.10"), "at": NOON, "day": date(2026, 1, 5)}], DEEP),
            '{"m": {"k": 1}, "price": 1.10, "at": "2026-01-05T12:00:00Z", "day": "2026-01-05"}',
        ),
        ("whole", pa.array([7], pa.uint64()), 7),
        ("whole", pa.array([7.0]), 7),  # whole numbers of pandas, where some are missing
        ("whole", pa.array([Decimal("7.00")]), 7),
        ("number", pa.array([Decimal("1.10")], pa.decimal128(38, 18)), 1.1),
        ("number", pa.array([float("inf")]), float("inf")),
        ("number", pa.array([7], pa.int16()), 7.0),
        ("born", pa.array([datetime(2026, 1, 5)], NS), date(2026, 1, 5)),  # a day of pandas
        ("at", pa.array([NOON.replace(tzinfo=None)], NS), NOON),
        ("at", pa.array([NOON], MS), NOON),
        ("at", pa.array([date(2026, 1, 5)]), NOON.replace(hour=0)),
        ("at", pa.array([datetime(9999, 12, 31)], pa.timestamp("us")), datetime(9999, 12, 31, tzinfo=UTC)),
        ("tags", pa.array([["a", None]], pa.large_list(pa.large_string())), ["a", None]),
        ("day", pa.array([date(2026, 1, 5)]), DAY),
        # What cannot be held.
        ("text", BAD_TEXT, "row text: is no UTF-8"),
        ("text", pa.array([b"\xff"], pa.binary()), "row text: \"b'\\\\xff'\" is not string"),
        ("text", pa.array([5]), "row text: '5' is not string"),
        ("text", pa.array([[("a", 1), ("a", 2)]], MAP), "row text: has one key twice"),
        ("text", pa.array([{"a": float("nan")}]), "row text: an object is not JSON that can be held"),
        ("text", pa.array([{"a": b"x"}]), "row text: an object is not JSON that can be held"),
        ("small", pa.array([300]), "row small: '300' is not tinyint"),
        ("whole", pa.array([1.5]), "row whole: '1.5' is not bigint"),
        ("whole", pa.array([float("nan")]), "row whole: 'nan' is not bigint"),
        ("whole", pa.array([2**63], pa.uint64()), "row whole: '9223372036854775808' is not bigint"),
        ("whole", pa.array([True]), "row whole: 'True' is not bigint"),
        ("number", pa.array([2**53 + 1]), "row number: '9007199254740993' is not double"),
        (
            "number",
            pa.array([Decimal("0.12345678901234567890")]),
            "row number: '0.12345678901234567890' has more digits",
        ),
        ("flag", pa.array([1]), "row flag: '1' is not boolean"),
        ("born", pa.array([NOON.replace(tzinfo=None)], NS), "row born: '2026-01-05 12:00:00.000000000' is not date"),
        ("born", pa.array([2932897], pa.date32()), "row born: '10000-01-01' is not date"),
        ("at", pa.array([253402300800], pa.timestamp("s")), "row at: '10000-01-01 00:00:00.000' is not timestamp"),
        ("at", pa.array([1], NS), "row at: '1970-01-01 00:00:00.000000001' is not timestamp"),
        ("at", pa.array([253402300800000], NOWHERE), "row at: '253402300800000' is not timestamp"),
        ("text", pa.array([5], NOWHERE), "row text: is a timestamp[ms, tz=No/Where] that can't be held"),
        ("at", pa.array([5]), "row at: '5' is not timestamp"),
        ("secret", pa.array(["4111-1111"]), "row secret: '***' is not bigint"),
    ],
)
def test_typed_parquet_is_held_or_refused(tmp_path: Path, column: str, values: pa.Array, held: Any) -> None:
    nothing = pa.nulls(1, values.type)
    columns = {column: pa.concat_arrays([nothing, values, nothing])} | ({"day": [DAY] * 3} if column != "day" else {})
    contract = contracts.parse(SHOP, tmp_path / "shop" / "thing.yaml")
    (batch,) = files.read(write(tmp_path / "a.parquet", pa.table(columns)), files.Names(contract, ignore=False))
    good, bad = _checked(contract, batch, None, Counter())
    if isinstance(held, str) and held.startswith("row "):
        assert len(bad) == 1 and bad[0][0] == 2 and held[4:] in bad[0][1]
        assert good.num_rows == 2
    elif column == "day":
        assert good["day"].to_pylist() == [DAY]
    else:
        assert not bad and good[column].to_pylist() == [None, held, None]


def test_a_timestamp_of_spark_beyond_2262_stays(shop: None, tmp_path: Path) -> None:
    at = [datetime(9999, 12, 31), datetime(1, 1, 1), datetime(2026, 1, 5, 0, 0, 0, 1), None]
    table = pa.table({"at": pa.array(at, pa.timestamp("us")), "day": [DAY] * 4})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    load(THING, [str(tmp_path / "a.parquet")])
    assert {row["at"] and row["at"].replace(tzinfo=None) for row in rows(THING)} == set(at)


def test_nanoseconds_of_spark_are_refused_and_no_other_row(shop: None, tmp_path: Path) -> None:
    at = pa.array([1, None, 2_000, -999, 3_000], NS)
    table = pa.table({"at": at, "day": [DAY] * 5, "whole": range(5)})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    found = load(THING, [str(tmp_path / "a.parquet")], drop_bad=True)
    assert [re.sub(r".*parquet:", "", reason) for reason in found.reasons] == [
        f"{row}: at: has more digits than a timestamp can hold (microseconds)" for row in (1, 4)
    ]
    assert sorted(row["whole"] for row in rows(THING)) == [1, 2, 4]


def test_a_damaged_page_of_parquet_is_no_page(shop: None, tmp_path: Path) -> None:
    """A damaged number is a number, too: only the checksum of its page tells."""
    table = pa.table({"day": [DAY] * 1000, "whole": range(1000)})
    pq.write_table(table, tmp_path / "a.parquet", write_page_checksum=True, compression="none", use_dictionary=False)
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    place = damaged.index((500).to_bytes(8, "little"))
    damaged[place] ^= 1
    file = write(tmp_path / "a.parquet", bytes(damaged))
    with pytest.raises(UsageError, match=r"^\S+a\.parquet can't be read as parquet: [^\n]*checksum[^\n]*$"):
        load(THING, [file])
    assert days() == {}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_folders_partitioned_in_hives_way(shop: None, tmp_path: Path, kind: str) -> None:
    content = {"parquet": pa.table({"whole": [7]}), "csv": "whole\n7\n", "jsonl": '{"whole": 7}\n'}[kind]
    folder = tmp_path / "in"
    for name in ("a%2Fb%3D%25/day=2026-01-05", "__HIVE_DEFAULT_PARTITION__/day=2026-01-06"):
        write(folder / f"text={name}" / f"part-0.{kind}", content)
    for hidden in ("_SUCCESS", ".part-0.parquet.crc", "_temporary/day=2026-01-05/part-0.parquet"):
        write(folder / hidden, b"no data")
    load(THING, [str(folder)])
    found = sorted((row["day"], row["text"], row["whole"]) for row in rows(THING))
    assert found == [(DAY, "a/b=%", 7), ("2026-01-06", None, 7)]
    # One of the folders alone, as a shell names it.
    load(THING, [str(folder / "text=a%2Fb%3D%25" / "day=2026-01-05")])
    assert days() == {DAY: 1, "2026-01-06": 1}
    # A null in a partition column that may not be null, and a value that is not the folder's.
    with pytest.raises(LakeError, match="text is missing"):
        load("shop.place", [str(folder)])
    write(folder / "day=2026-01-07" / "a.csv", "day,whole\n2026-01-07,1\n2026-01-08,1\n")
    with pytest.raises(
        LakeError, match=r"1 row does not fit[^\n]*\n.*a\.csv:3: day: '2026-01-08' is not what its folder says"
    ):
        load(THING, [str(folder)])
    write(folder / "README.txt", "")
    with pytest.raises(UsageError, match=r"README\.txt: load reads"):
        load(THING, [str(folder)])


def test_a_folder_of_hive_may_begin_with_an_underscore(shop: None, tmp_path: Path) -> None:
    """Its rows would be gone, and their days would be called empty."""
    write(tmp_path / "in" / "_taken=2026-01-06" / "a.csv", f"day,whole\n{DAY},7\n")
    folder = str(tmp_path / "in")
    with pytest.raises(UsageError, match=r"has no column '_taken'.*: nothing was loaded"):
        load(THING, [folder], days=[DAY])
    loaded = load(THING, [folder], days=[DAY], ignore_columns=True)
    assert (loaded.now, loaded.empty_days) == ({DAY: 1}, [])


def test_of_a_delta_table_the_newest_rows_are_read(shop: None, tmp_path: Path) -> None:
    for number in (1, 2):
        table = pa.table({"day": [DAY, "2026-01-06"], "whole": [number] * 2})
        write_deltalake(str(tmp_path / "delta"), table, mode="overwrite", partition_by=["day"])
    load(THING, [str(tmp_path / "delta")])
    assert sorted((row["day"], row["whole"]) for row in rows(THING)) == [(DAY, 2), ("2026-01-06", 2)]


def mapped_delta(folder: Path, names: dict[str, str], table: pa.Table, **protocol: Any) -> str:
    """A Delta table whose files have other names of the columns than its log; names: those of the log -> the files."""
    file = Path(write(folder / "part.parquet", table.rename_columns([names[name] for name in table.column_names])))
    types = {pa.string(): "string", pa.int64(): "long"}
    fields = [
        {
            "name": field.name, "type": types[field.type], "nullable": True,
            "metadata": {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": names[field.name]},
        }
        for number, field in enumerate(table.schema, 1)
    ]  # fmt: skip
    configuration = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": str(len(fields))}
    log: list[dict[str, Any]] = [
        {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5} | protocol},
        {
            "metaData": {
                "id": "x", "format": {"provider": "parquet", "options": {}}, "partitionColumns": [], "createdTime": 0,
                "schemaString": json.dumps({"type": "struct", "fields": fields}), "configuration": configuration,
            }
        },
        {
            "add": {
                "path": file.name, "partitionValues": {}, "size": file.stat().st_size, "modificationTime": 0,
                "dataChange": True,
            }
        },
    ]  # fmt: skip
    json_lines(Path(write(folder / "_delta_log" / f"{0:020}.json", "")), *log)
    return str(folder)


FEATURES = {"minReaderVersion": 3, "minWriterVersion": 7}


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        FEATURES | {"readerFeatures": ["columnMapping"], "writerFeatures": ["columnMapping"]},
        FEATURES | {key: ["columnMapping", "deletionVectors"] for key in ("readerFeatures", "writerFeatures")},
    ],
)
def test_columns_of_a_delta_table_may_have_other_names_in_its_files(
    called: None, tmp_path: Path, protocol: dict[str, Any]
) -> None:
    """As Databricks writes them where columns were renamed. By the names of its log all values would be null."""
    table = pa.table({"theText": ["a", None], "The Whole": [1, 2], "at": [LAST_MS, NEXT_MS]})
    names = {"theText": "col-1", "The Whole": "col-2", "at": "at"}
    loaded = load(CALL, [mapped_delta(tmp_path / "delta", names, table, **protocol)])
    assert loaded.now == {"2026-01-05": 1, "2026-01-06": 1}
    assert sorted((row["whole"], row["text"]) for row in rows(CALL)) == [(1, "a"), (2, None)]
    (tmp_path / "delta" / "part.parquet").unlink()
    with pytest.raises(UsageError, match=r"delta can't be read as a Delta table: [^\n]*part\.parquet[^\n]*$"):
        load(CALL, [str(tmp_path / "delta")])


def test_a_delta_table_with_the_feature_of_deletion_vectors_is_read(shop: None, tmp_path: Path) -> None:
    """New tables of Databricks have it."""
    delta = str(tmp_path / "delta")
    write_deltalake(
        delta, pa.table({"day": [DAY, DAY], "whole": [1, 2]}), configuration={"delta.enableDeletionVectors": "true"}
    )
    assert load(THING, [delta]).now == {DAY: 2}


def test_a_lost_file_of_a_delta_table_is_named(shop: None, tmp_path: Path) -> None:
    """The folder is there, so nobody should look for the folder."""
    write_deltalake(tmp_path / "delta", pa.table({"day": [DAY], "whole": [1]}))
    (lost,) = (tmp_path / "delta").glob("*.parquet")
    lost.unlink()
    with pytest.raises(
        UsageError, match=rf"^{tmp_path}/delta can't be read as a Delta table: [^\n]*{lost.name}[^\n]*$"
    ):
        load(THING, [str(tmp_path / "delta")])


GOOD = f'{{"day": "{DAY}"}}'


@pytest.mark.parametrize(
    ("name", "bad", "told"),
    [
        ("a.jsonl", b'{"day": "2026-01-05", "text": "\\ud800"}', "text: '\\ud800' has half a surrogate pair"),
        ("a.jsonl", b'{"day": "2026-01-05", "text": {"a": "\\ud800"}}', "text: an object"),
        ("a.jsonl", b'{"day": "2026-01-05", "text": "\xff"}', "is no UTF-8 at byte 32"),
        ("a.jsonl", b'{"text": ' + b"[" * 1500 + b"]" * 1500 + b"}", "is nested too deep"),
        ("a.jsonl", b'{"day": "2026-01-05", "at": "10000-01-01T00:00:00Z"}', "at: '10000-01-01T00:00:00Z' is not"),
        ("a.jsonl", b'{"day": "2026-01-05", "at": "9999-12-31T23:59:59-09:00"}', "is not timestamp"),
        ("a.jsonl", b'{"day": "2026-01-05", "at": "2026-01-05T00:00:00.0000001Z"}', "more digits than a timestamp"),
        ("a.jsonl", b'{"day": "2026-01-05", "born": "10000-01-01"}', "born: '10000-01-01' is not date"),
        ("a.jsonl", b'{"day": "2026-01-05", "whole": NaN}', "whole: 'nan' is not bigint"),
        ("a.jsonl", b'{"day": "2026-01-05", "text": [Infinity]}', "text: a list is not JSON that can be held"),
        ("a.jsonl", b'{"day": "2026-01-05", "number": 1e999}', "a number is too big"),
        ("a.jsonl", b'{"day": "2026-01-05", "whole": ' + b"9" * 5000 + b"}", "is not JSON that can be held"),
        ("a.jsonl", b'{"day": "2026-01-05", "number": 9007199254740993}', "more digits than double can hold"),
        ("a.jsonl", b'{"day": "2026-01-05", "day": "2026-01-06"}', "an object has one key twice"),
        ("a.jsonl", b'{"day": "2026-01-05", "text": {"a": 1, "a": 2}}', "an object has one key twice"),
        ("a.jsonl", b'{"day": "2026-01-05", "secret": "4111-1111"}', "secret: '***' is not bigint"),
        ("a.jsonl", b'{"day": ""}', "day: '' is null in a partition column"),
        ("a.csv", b"x,1,1,2026-01-05,more", "has 5 values, but the header has 4"),
        ("a.csv", b"x,1", "has 2 values, but the header has 4"),
        ("a.csv", b"\xff,1,1,2026-01-05", "is no UTF-8"),
        (
            "a.csv",
            b'"{\\"a\\": 1}",1,1,2026-01-05',
            "a backslash before a quote: let Spark write with the option escape",
        ),
        ("a.csv", b'"a\\",1,1,"",2026-01-05"', ", but the header has 4 (a backslash"),
        ("a.csv", b'"x,1,1,2026-01-05', "is not CSV: "),
        ("a.csv", b"x,1_0,1,2026-01-05", "whole: '1_0' is not bigint"),
        ("a.csv", b"x,1,1e999,2026-01-05", "number: '1e999' is too big for double"),
        ("a.csv", "x,١,1,2026-01-05".encode(), "whole: '١' is not bigint"),
    ],
)
def test_one_bad_row_costs_itself_alone(shop: None, tmp_path: Path, name: str, bad: bytes, told: str) -> None:
    good = GOOD.encode() if name == "a.jsonl" else b"x,1,1," + DAY.encode()
    head = [] if name == "a.jsonl" else [b"text,whole,number,day"]
    file = write(tmp_path / name, b"\n".join([*head, good, bad, good, good, b""]))
    loaded = load(THING, [file], drop_bad=True)
    assert loaded.reasons[0].startswith(f"{file}:{len(head) + 2}: ") and told in loaded.reasons[0]
    assert (loaded.now, loaded.dropped) == ({DAY: 3}, 1)


LONG = "0.1234567890123456789"


@pytest.mark.parametrize(
    ("column", "text", "held"),
    [
        ("whole", "9007199254740993.0", 2**53 + 1),
        ("whole", LONG, "is not bigint"),
        ("number", "9007199254740993", "has more digits than double can hold"),
        ("number", '"9007199254740993.0"', "has more digits than double can hold"),
        ("number", "9007199254740993.0", "has more digits than double can hold"),
        ("number", "0.10000000000000001", 0.1),  # as C writes it with 17 digits
        ("number", "1.50", 1.5),
        ("text", f'{{"a": [{LONG}, 1.5, 1E-400]}}', f'{{"a": [{LONG}, 1.5, 1E-400]}}'),
        ("text", '{"a": 1e-99999999999999999999}', "a number is too small"),
        ("tags", '"[1e999]"', "tags: '[1e999]' is not JSON that can be held: a number is too big"),
        ("tags", '"[{\\"a\\": 1, \\"a\\": 2}]"', "an object has one key twice"),
        ("tags", '"[{\\"a\\": 9007199254740993.0}]"', ['{"a": 9007199254740993.0}']),
        ("at", '"1711012012345"', "is a number: write `unit: ms` at this column"),
        ("at", '"20260105"', "is a number: write `unit: ms` at this column"),
    ],
)
def test_a_number_is_held_as_it_is_written_or_refused(
    shop: None, tmp_path: Path, column: str, text: str, held: Any
) -> None:
    lines = [f'{{"day": "{DAY}", "number": 1.5}}', f'{{"day": "{DAY}", "{column}": {text}}}']
    found = load(THING, [json_lines(tmp_path / "a.jsonl", *lines)], drop_bad=True)
    if column == "number":
        content = f"number,day\n1.5,{DAY}\n{text},{DAY}\n"
        same = load(THING, [write(tmp_path / "a.csv", content)], drop_bad=True)
        assert (same.now, same.dropped) == (found.now, found.dropped)
    if isinstance(held, str) and found.dropped:
        assert held in found.reasons[0]
    else:
        assert held in [row[column] for row in rows(THING)]


def test_what_is_long_or_spans_lines_is_no_bad_row(shop: None, tmp_path: Path) -> None:
    texts = ["x" * 140_000, 'two\nlines, "quoted"', "back\\slash"]
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    load(THING, [write(tmp_path / "a.csv", "text,day\n" + "".join(f"{text},{DAY}\n" for text in quoted))])
    assert {row["text"] for row in rows(THING)} == set(texts)


def test_an_empty_line_is_a_null_where_there_is_one_column(shop: None, tmp_path: Path) -> None:
    """As DuckDB and Polars write it. Among several columns it says nothing."""
    load(THING, [write(tmp_path / f"day={DAY}" / "a.csv", '\ntext\na\n\n""\r\n\r\nb\n')])
    assert [row["text"] for row in rows(THING)] == ["a", None, None, None, "b"]
    load(THING, [write(tmp_path / "b.csv", f"text,day\n\na,{DAY}\n\nb,{DAY}\nc,{DAY}\n\n")])
    assert [row["text"] for row in rows(THING)] == ["a", "b", "c"]


def test_an_empty_text_is_no_partition(shop: None, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", f'{{"day": "{DAY}", "text": ""}}\n')
    with pytest.raises(LakeError, match="text: '' is null in a partition column"):
        load("shop.place", [file])
    assert load(THING, [file]).rows == 1


def test_rows_are_read_a_batch_at_a_time(shop: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ROWS", 100)
    table = pa.table({"day": [DAY, "2026-01-06"] * 500, "whole": range(1000)})
    lines = "".join(f"{row['day']},{row['whole']}\n" for row in table.to_pylist())
    for path in (
        write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in table.to_pylist())),
        write(tmp_path / "a.csv", "day,whole\n" + lines),
        write(tmp_path / "a.parquet", table),
    ):
        sizes = [len(batch.lines) for batch in files.read(path, files.Names(contracts.get(THING), ignore=False))]
        assert max(sizes) == 100 and sum(sizes) == 1000
        before = storage.open_table(THING)
        loaded = load(THING, [path])
        assert loaded.now == {DAY: 500, "2026-01-06": 500}
        assert loaded.version == (before.version() if before else 0) + 1, "one commit"
        assert sorted(row["whole"] for row in rows(THING)) == list(range(1000))


def test_a_batch_of_wide_rows_of_parquet_is_no_bigger(shop: None, tmp_path: Path) -> None:
    """Rows alone are no limit of memory."""
    table = pa.table({"day": [DAY] * 40, "text": [os.urandom(500_000).hex() for _ in range(40)]})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=["day"])
    names = files.Names(contracts.get(THING), ignore=False)
    sizes = [len(batch.lines) for batch in files.read(str(tmp_path / "a.parquet"), names)]
    assert sum(sizes) == 40 and 10 < max(sizes) <= 16


def test_a_day_that_would_lose_most_of_its_rows_stops_the_load(shop: None, tmp_path: Path) -> None:
    load(THING, [write(tmp_path / "a.jsonl", things(d05=50, d06=50))])
    stray = write(tmp_path / "b.jsonl", things(d05=1, d06=60, d07=1))
    with pytest.raises(LakeError, match=r"\(2026-01-05 50 -> 1\): nothing was loaded; .* --replace-smaller"):
        load(THING, [stray])
    assert days() == {"2026-01-05": 50, "2026-01-06": 50}
    loaded = load(THING, [stray], replace_smaller=True)
    assert loaded.before == {"2026-01-05": 50, "2026-01-06": 50, "2026-01-07": 0}
    assert loaded.now == days() == {"2026-01-05": 1, "2026-01-06": 60, "2026-01-07": 1}
    assert load(THING, [write(tmp_path / "c.jsonl", things(d06=30))]).before == {"2026-01-06": 60}, "half may go"
    load(NOTICE, [write(tmp_path / "n.jsonl", '{"id": "1"}\n' * 9)])
    with pytest.raises(LakeError, match=r"\(9 -> 4\)"):
        load(NOTICE, [write(tmp_path / "n.jsonl", '{"id": "1"}\n' * 4)])


def test_a_load_speaks_for_all_days_of_its_range(shop: None, tmp_path: Path) -> None:
    span = ["2026-01-04", "2026-01-05", "2026-01-06"]
    load(THING, [write(tmp_path / "a.jsonl", things(d05=2, d06=1, d07=1))])
    file = write(tmp_path / "b.jsonl", things(d05=3))
    with pytest.raises(LakeError, match="2026-01-06 1 -> 0"):
        load(THING, [file], days=span)
    loaded = load(THING, [file], days=span, replace_smaller=True)
    assert loaded.empty_days == ["2026-01-04", "2026-01-06"]
    assert loaded.now == {"2026-01-04": 0, "2026-01-05": 3, "2026-01-06": 0}
    assert days() == {"2026-01-05": 3, "2026-01-07": 1}
    record = metadata()
    assert len(record.pop("load_id")) == 32
    empty_days = ["2026-01-04", "2026-01-06"]
    assert record == {"table": THING, "loaded": {"2026-01-05": 3}, "empty_days": empty_days, "sample": False}
    with pytest.raises(LakeError, match=r"day: '2026-01-07' is not in 2026-01-04\.\.2026-01-06"):
        load(THING, [write(tmp_path / "c.jsonl", things(d05=3, d07=1))], days=span)
    # Days that had no rows before: nothing changes but what is known of them.
    loaded = load(THING, [write(tmp_path / "d.csv", "")], days=["2026-01-01", "2026-01-02"])
    assert (metadata()["loaded"], metadata()["empty_days"]) == ({}, ["2026-01-01", "2026-01-02"])
    delta = storage.open_table(THING)
    assert delta is not None and delta.version() == loaded.version == 3
    with pytest.raises(UsageError, match="has no days"):
        load(NOTICE, [file], days=span)


def test_a_writer_that_comes_between_is_seen(shop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = contracts.get(THING)
    table = pa.Table.from_pylist([{"day": DAY, "whole": 1}], storage.arrow_schema(contract))
    seen = []

    def guard(before: dict[str, int]) -> None:
        seen.append(before)
        if len(seen) == 1:
            storage.replace(contract, pa.concat_tables([table] * 3))

    version = storage.replace(contract, table, guard=guard)
    assert seen == [{}, {DAY: 3}] and version == 2 and days() == {DAY: 1}
    assert metadata()["loaded"] == {DAY: 1} and metadata()["empty_days"] == [], "of every writer of sources"


def test_the_command_line_says_what_changed(shop: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["load", THING, write(tmp_path / "a.jsonl", things(d05=5))]
    assert cli.main([*command, "--from", DAY, "--to", "2026-01-06"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "shop.thing: 5 rows of 2 days (2026-01-05..2026-01-06) loaded",
        "  2026-01-05: 0 before, 5 now",
        "  2026-01-06: 0 before, 0 now",
    ]
    write(tmp_path / "a.jsonl", things(d05=1))
    assert cli.main(command) == 1
    assert capsys.readouterr().err.startswith(
        "lake: shop.thing would lose more than half of its rows (2026-01-05 5 -> 1)"
    )
    write(tmp_path / "a.jsonl", things(**{f"d{n:02}": 6 - n % 2 for n in range(1, 13)}))
    assert cli.main([*command, "--replace-smaller"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  days new: 11, with as many rows: 1"]
    write(tmp_path / "a.jsonl", things(**{f"d{n:02}": 5 for n in range(1, 13)}) + "{broken\n")
    assert cli.main([*command, "--drop-bad"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].endswith("loaded, 1 dropped") and told.err.startswith("dropped ")
    assert told.out.splitlines()[1:3] == [
        "  days with as many rows: 6, with fewer rows: 6",
        "  2026-01-02: 6 before, 5 now",
    ]
    assert cli.main([*command, "--from", DAY]) == 2
    assert "--from D and --to D go together" in capsys.readouterr().err
    write(tmp_path / "a.jsonl", things(d05=5).replace("2026", "2836"))
    assert cli.main([*command, "--from", "2836-01-04", "--to", "2836-01-05"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  note, not over yet: 2836-01-04..2836-01-05"


@pytest.mark.spark
@pytest.mark.engine("spark")
def test_what_spark_writes_is_loaded(shop: None, tmp_path: Path, spark: Any) -> None:
    spark.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
    written = spark.sql(
        """SELECT map('a', 1L) AS text, 7Y AS small, CAST(7 AS DECIMAL(20, 0)) AS whole, 1.10BD AS number,
        true AS flag, DATE'2026-01-05' AS born, TIMESTAMP'9999-12-31 00:00:00' AS at, array('x', NULL) AS tags,
        '2026-01-05' AS day"""
    )
    written.write.partitionBy("day").parquet(str(tmp_path / "typed"))
    spark.conf.unset("spark.sql.parquet.outputTimestampType")
    assert load(THING, [str(tmp_path / "typed")]).no_values == ["secret"]
    assert rows(THING) == [
        {
            "text": '{"a": 1}', "small": 7, "whole": 7, "number": 1.1, "flag": True, "born": date(2026, 1, 5),
            "at": datetime(9999, 12, 31, tzinfo=UTC), "tags": ["x", None], "secret": None, "day": DAY,
        }
    ]  # fmt: skip
    # Spark puts a backslash before a quote unless it is told to double it.
    texts = ["plain", 'say "hi", he said', "back\\slash, and more"]
    frame = spark.createDataFrame([(text, "2026-01-06") for text in texts], "text string, day string").coalesce(1)
    frame.write.option("header", True).csv(str(tmp_path / "backslash"))
    loaded = load(THING, [str(tmp_path / "backslash")], drop_bad=True)
    assert loaded.now == {"2026-01-06": 2} and "let Spark write with the option escape" in loaded.reasons[0]
    frame.write.option("header", True).option("escape", '"').csv(str(tmp_path / "doubled"))
    load(THING, [str(tmp_path / "doubled")])
    frame.write.json(str(tmp_path / "lines"))
    load(THING, [str(tmp_path / "lines")])
    assert {row["text"] for row in rows(THING) if row["day"] == "2026-01-06"} == set(texts)


CALLED = """
about: Things that files call otherwise.
partitioned_by: [day]
day_of: at
columns:
  - {name: text, named: theText, type: string}
  - {name: whole, named: The Whole, type: bigint}
  - {name: at, type: timestamp, unit: ms}
  - {name: born, named: bornAt, type: timestamp, unit: ms, sensitive: true}
  - {name: day, named: theDay, type: string}
"""
CALL = "shop.called"
# 2026-01-05T23:59:59.999Z and the millisecond after it.
LAST_MS, NEXT_MS = 1767657599999, 1767657600000


@pytest.fixture
def called(lake_home: Path, project: Any) -> None:
    project({"shop/called.yaml": CALLED})


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "delta", "folders"])
def test_columns_by_the_names_of_the_files_and_moments_as_numbers(called: None, tmp_path: Path, kind: str) -> None:
    columns = {
        "theText": ["a", None, "c"],
        "The Whole": [1, None, -3],
        "at": [LAST_MS, NEXT_MS, NEXT_MS],
        "bornAt": [0, None, -1],
    }
    table = pa.table(columns)
    path = tmp_path / f"a.{kind}"
    match kind:
        case "jsonl":
            json_lines(path, *table.to_pylist())
        case "csv":
            csv_of(path, *({name: str("" if v is None else v) for name, v in row.items()} for row in table.to_pylist()))
        case "parquet":
            write(path, table)
        case "delta":
            write_deltalake(str(path), table.rename_columns({"The Whole": "whole"}))  # Delta allows no blanks
        case "folders":
            for part, day in (table[:1], "2026-01-05"), (table[1:], "2026-01-06"):
                write(path / f"theDay={day}" / "a.parquet", part)
    loaded = load(CALL, [str(path)])
    assert loaded.no_values == []
    assert sorted(rows(CALL), key=lambda row: (row["at"], row["whole"] is not None)) == [
        {
            "text": "a", "whole": 1, "at": datetime(2026, 1, 5, 23, 59, 59, 999000, UTC),
            "born": datetime(1970, 1, 1, tzinfo=UTC), "day": "2026-01-05",
        },
        {"text": None, "whole": None, "at": datetime(2026, 1, 6, tzinfo=UTC), "born": None, "day": "2026-01-06"},
        {
            "text": "c", "whole": -3, "at": datetime(2026, 1, 6, tzinfo=UTC),
            "born": datetime(1969, 12, 31, 23, 59, 59, 999000, UTC), "day": "2026-01-06",
        },
    ]  # fmt: skip


def test_the_contracts_own_names_and_real_moments_are_read_as_well(called: None, tmp_path: Path) -> None:
    moment = datetime(2026, 1, 5, 12, 0, 0, 1, tzinfo=UTC)
    own = [{"text": "x", "whole": 7, "at": moment.isoformat(), "born": "2026-01-05T21:00:00.000001+09:00"}]
    files_of_it = [json_lines(tmp_path / "a.jsonl", *own), csv_of(tmp_path / "a.csv", *own)]
    typed = pa.table({"text": ["x"], "whole": [7], "at": [moment], "born": pa.array([moment], pa.timestamp("us"))})
    for file in [*files_of_it, write(tmp_path / "a.parquet", typed)]:
        load(CALL, [file])
        assert rows(CALL) == [{"text": "x", "whole": 7, "at": moment, "born": moment, "day": DAY}]
    # Two files may differ, and one file may not.
    other = json_lines(tmp_path / "b.jsonl", {"theText": "y", "at": LAST_MS})
    assert load(CALL, [files_of_it[0], other]).now == {DAY: 2}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.jsonl",
            '{"at": 1, "theText": "a", "text": "a"}\n',
            "a.jsonl:1 has theText and text, two names of the column",
        ),
        ("a.jsonl", '{"at": 1, "text": "a"}\n{"at": 1, "theText": "a"}\n', "a.jsonl:2 has text and theText, two names"),
        ("a.csv", "at,text,theText\n1,a,a\n", "a.csv has text and theText, two names of the column text"),
        ("a.parquet", pa.table({"at": [1], "whole": [1], "The Whole": [1]}), "has whole and The Whole, two names"),
        ("text=a/theText=b/a.csv", "at\n1\n", "its folders say text twice"),
        ("a.csv", "at,theText,theText\n1,a,a\n", "has theText twice"),
        (
            "a.csv",
            "at,thetext,wholes,The Whol,txt\n1,a,a,a,a\n",
            "'thetext' (is it theText?), 'wholes' (is it whole?), 'The Whol' (is it The Whole?), 'txt' (is it text?)",
        ),
        ("a.csv", "at;theText\n1;a\n", "separate the columns with commas, not ';'"),
        ("a.jsonl", '{"x": 1}\n', "no column 'x'"),
    ],
)
def test_both_names_of_a_column_in_a_file_and_unknown_ones_are_refused(
    called: None, tmp_path: Path, name: str, content: str | pa.Table, told: str
) -> None:
    write(tmp_path / "in" / name, content)
    with pytest.raises(UsageError) as error:
        load(CALL, [str(tmp_path / "in")])
    assert told in str(error.value) and "\n" not in str(error.value)
    assert storage.open_table(CALL) is None


def test_what_has_none_of_the_columns_is_told_both_names(called: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none of the columns of shop.called \(text or theText, .*, at, "):
        load(CALL, [json_lines(tmp_path / "a.jsonl", {"x": 1})], ignore_columns=True)


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (1767571200000.0, datetime(2026, 1, 5, tzinfo=UTC)),
        ("1767571200000", datetime(2026, 1, 5, tzinfo=UTC)),  # CSV has texts alone
        ("1711012012345", datetime(2024, 3, 21, 9, 6, 52, 345000, UTC)),  # and not 23:45 of a day of 1711
        ("2026-01-05", datetime(2026, 1, 5, tzinfo=UTC)),
        (-62135596800000, datetime(1, 1, 1, tzinfo=UTC)),
        (253402300799999, datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)),
        (253402300800000, "is out of range: it counts milliseconds since 1970"),
        (-62135596800001, "is out of range"),
        (10**400, "is out of range"),
        (1e300, "is out of range"),
        (1767571200000.5, "is no whole number of milliseconds"),
        ("1767571200000.5", "is no whole number of milliseconds"),
        ("1.7675712E12", "is no whole number of milliseconds"),
        (float("nan"), "is no whole number of milliseconds"),
        (float("inf"), "is no whole number of milliseconds"),
        (Decimal("0.5"), "is no whole number of milliseconds"),
        (True, "is not timestamp"),
        ("soon", "is not timestamp"),
        ([1], "is not timestamp"),
    ],
)
def test_a_moment_as_a_number_is_held_or_refused(tmp_path: Path, value: Any, held: Any) -> None:
    columns = {column.name: column for column in contracts.parse(CALLED, tmp_path / "shop" / "called.yaml").columns}
    found = [
        values.as_column(columns[name], pa.timestamp("us", "UTC"), [None, value], False) for name in ("at", "born")
    ]
    if isinstance(held, str):
        assert all(array.to_pylist() == [None, None] for array, _ in found)
        assert held in found[0][1][1] and "at: " in found[0][1][1]
        assert "born: '***' " in found[1][1][1] or isinstance(value, list), (
            "of a sensitive column nobody sees the value"
        )
    else:
        assert all((array.to_pylist(), wrong) == ([None, held], {}) for array, wrong in found)


def test_numbers_in_a_parquet_file_are_refused_one_by_one(called: None, tmp_path: Path) -> None:
    at = [NEXT_MS + 0.5, LAST_MS, None, 1e20]
    file = write(tmp_path / "a.parquet", pa.table({"at": at}))
    loaded = load(CALL, [file], drop_bad=True)
    assert loaded.now == {DAY: 1}
    assert loaded.reasons == [
        f"{file}:1: at: '1767657600000.5' is no whole number of milliseconds",
        f"{file}:3: at is missing (day is its day)",
        f"{file}:4: at: '1e+20' is out of range: it counts milliseconds since 1970",
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_empty_text_is_null_in_what_is_no_text(shop: None, tmp_path: Path, kind: str) -> None:
    row = {"text": "", "small": "", "whole": "", "number": "", "flag": "", "born": "", "at": "", "tags": "", "day": DAY}
    path = tmp_path / f"a.{kind}"
    {"jsonl": json_lines, "csv": csv_of, "parquet": lambda p, r: write(p, pa.Table.from_pylist([r]))}[kind](path, row)
    load(THING, [str(path)])
    assert rows(THING) == [dict.fromkeys([*row, "secret"]) | {"day": DAY, "text": None if kind == "csv" else ""}]


# As eventsim writes them: numbers of milliseconds, names in camel case, and nobody in some rows.
PLACE = {
    "city": "Portland",
    "zip": "04101",
    "state": "ME",
    "userAgent": "Mozilla/5.0 (X11)",
    "lon": -70.26,
    "lat": 43.66,
}
PERSON = {"userId": 7, "lastName": "Kim", "firstName": "Ada", "gender": "F", "registration": 1740000000123}
LISTEN = {
    "artist": "Lumotide", "song": "Small Rain ", "duration": 219.5, "ts": LAST_MS, "sessionId": 583,
    "auth": "Logged In", "level": "paid", "itemInSession": 0, **PLACE, **PERSON,
}  # fmt: skip
PAGE = {"page": "Home", "auth": "Guest", "method": "GET", "status": 200, "level": "free", "itemInSession": 1}
EVENTSIM = {
    "audio_raw.listen_events": [LISTEN, LISTEN | {"ts": NEXT_MS, "userId": ""}],
    "audio_raw.auth_events": [
        {"ts": LAST_MS, "sessionId": 583, "level": "paid", "itemInSession": 0, **PLACE, **PERSON, "success": True},
        {"ts": NEXT_MS, "sessionId": 584, "level": "free", "itemInSession": 0, **PLACE, "success": False},
    ],
    "audio_raw.page_view_events": [
        {**LISTEN, "page": "NextSong", "method": "PUT", "status": 200},
        {"ts": NEXT_MS, "sessionId": 584, **PAGE, **PLACE, **dict.fromkeys(PERSON)},
    ],
    "audio_raw.status_change_events": [
        {"ts": LAST_MS, "sessionId": 583, "auth": "Logged In", "level": "free", "itemInSession": 9, **PLACE, **PERSON},
        {"ts": NEXT_MS, "sessionId": 583, "auth": "Logged In", "level": "paid", "itemInSession": 12, **PLACE, **PERSON},
    ],
}


@pytest.mark.parametrize("table", EVENTSIM)
def test_events_are_loaded_as_eventsim_has_them(lake_home: Path, tmp_path: Path, table: str) -> None:
    events = EVENTSIM[table]
    loaded = load(table, [json_lines(tmp_path / "events.jsonl", *events)])
    assert (loaded.now, loaded.no_values) == ({"2026-01-05": 1, "2026-01-06": 1}, [])
    held = sorted(rows(table), key=lambda row: row["ts"])
    called = {column.name: column.named or column.name for column in contracts.get(table).columns}
    for row, event, day in zip(held, events, ("2026-01-05", "2026-01-06"), strict=True):
        moments = {
            name: number and datetime.fromtimestamp(number // 1000, UTC).replace(microsecond=number % 1000 * 1000)
            for name in ("ts", "registration")
            for number in [event.get(name)]
        }
        wanted = {name: event.get(called[name]) for name in row} | moments | {"part_date": day}
        assert row == wanted | ({"user_id": None} if event.get("userId") == "" else {})
    assert held[0]["ts"] == datetime(2026, 1, 5, 23, 59, 59, 999000, UTC) and held[0]["user_id"] == 7


TRACKS = "rudder.tracks"
# As RudderStack has it in a warehouse: more columns than ours, no day, moments of any zone.
TRACK = {
    "id": "e1", "anonymous_id": "a", "user_id": "", "event": "page", "event_text": "Page", "context_ip": "10.0.0.1",
    "sent_at": "2026-03-02T23:59:59.5Z", "timestamp": "2026-03-02T23:59:59.123456Z", "uuid_ts": "2026-03-03T00:05:00Z",
}  # fmt: skip
LATER = TRACK | {"id": "e2", "user_id": "u", "timestamp": "2026-03-03T08:59:59+09:00"}
NEXT = TRACK | {"id": "e3", "user_id": None, "timestamp": "2026-03-03T00:00:00Z"}


def parquet_of(path: Path, *objects: dict[str, Any]) -> str:
    moments = [[datetime.fromisoformat(o["timestamp"]) for o in objects]]
    table = pa.Table.from_pylist([*objects]).drop_columns("timestamp")
    pq.write_table(table.append_column("timestamp", pa.array(moments[0], pa.timestamp("us", "UTC"))), path)
    return str(path)


def csv_of(path: Path, *objects: dict[str, Any]) -> str:
    lines = [",".join(objects[0]), *(",".join(str(value or "") for value in o.values()) for o in objects)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("write_file", [json_lines, parquet_of, csv_of])
def test_tracks_are_loaded_as_rudderstack_has_them(lake_home: Path, tmp_path: Path, write_file: Any) -> None:
    """Other columns are left out without an option, and the day is the UTC day of the timestamp."""
    kind = {json_lines: "jsonl", parquet_of: "parquet", csv_of: "csv"}[write_file]
    loaded = load(TRACKS, [write_file(tmp_path / f"tracks.{kind}", TRACK, LATER, NEXT)])
    assert loaded.now == {"2026-03-02": 2, "2026-03-03": 1}
    by_id = {row["id"]: row for row in rows(TRACKS)}
    assert [by_id[event]["part_date"] for event in ("e1", "e2", "e3")] == ["2026-03-02", "2026-03-02", "2026-03-03"]
    assert by_id["e1"]["timestamp"] == datetime(2026, 3, 2, 23, 59, 59, 123456, UTC)
    assert by_id["e2"]["user_id"] == "u" and not by_id["e1"]["user_id"] and not by_id["e3"]["user_id"]
    assert by_id["e1"].keys() == set(contracts.get(TRACKS).column_names)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"part_date": "2026-03-03"}, "part_date: '2026-03-03' is not the UTC day of timestamp"),
        ({"part_date": "someday"}, "part_date: 'someday' is not the UTC day of timestamp"),
        ({"part_date": 5}, "part_date: '5' is not string"),
        ({"timestamp": None}, "timestamp is missing"),
        ({"timestamp": "yesterday"}, "timestamp: 'yesterday' is not timestamp"),
        ({"id": None}, "id is missing"),
    ],
)
def test_a_track_without_id_or_moment_or_of_another_day_is_refused(
    lake_home: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = json_lines(tmp_path / "tracks.jsonl", TRACK, LATER | change, NEXT)
    with pytest.raises(LakeError, match="1 row does not fit the contract") as error:
        load(TRACKS, [path])
    assert f"{path}:2: {reason}" in str(error.value)
    assert storage.open_table(TRACKS) is None
    assert load(TRACKS, [path], drop_bad=True).now == {"2026-03-02": 1, "2026-03-03": 1}


def test_a_row_without_the_moment_of_its_day_is_told_what_it_lacks(
    project: Any, lake_home: Path, tmp_path: Path
) -> None:
    columns = "{name: sold_at, type: timestamp}, {name: id, type: string}, {name: day, type: string}"
    project({"shop/sale.yaml": f"about: x\nday_of: sold_at\npartitioned_by: [day]\ncolumns: [{columns}]\n"})
    path = json_lines(tmp_path / "sales.jsonl", {"id": "a", "sold_at": "2026-03-02T00:00:00Z"}, {"id": "b"})
    with pytest.raises(LakeError, match=r"sales\.jsonl:2: sold_at is missing \(day is its day\)"):
        load("shop.sale", [path])


def test_a_day_that_a_folder_of_tracks_says_must_be_theirs(lake_home: Path, tmp_path: Path) -> None:
    for day, track in ("2026-03-02", TRACK), ("2026-03-03", NEXT):
        (tmp_path / "tracks" / f"part_date={day}").mkdir(parents=True)
        json_lines(tmp_path / "tracks" / f"part_date={day}" / "a.jsonl", track)
    assert load(TRACKS, [str(tmp_path / "tracks")]).days == ["2026-03-02", "2026-03-03"]
    json_lines(tmp_path / "tracks" / "part_date=2026-03-03" / "a.jsonl", NEXT, LATER)
    with pytest.raises(LakeError, match=r"a.jsonl:2: part_date: '2026-03-03' is not the UTC day of timestamp"):
        load(TRACKS, [str(tmp_path / "tracks")])


def test_a_file_of_something_else_is_no_file_of_tracks(lake_home: Path, tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", {"anonymousId": "a", "messageId": "e1", "sentAt": "2026-03-02T10:00:00Z"})
    with pytest.raises(UsageError, match=r"none of the columns of rudder.tracks"):
        load(TRACKS, [path])
