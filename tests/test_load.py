"""Files into sources: which days are replaced, what is refused, and that a refusal writes nothing."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.lake import storage
from include.lake.errors import LakeError, UsageError
from include.lake.load import load

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
    load(NOTICE, [json_lines(tmp_path / "b.jsonl", {"id": "3", "something_else": [1]})])
    assert rows(NOTICE) == [{"id": "3", "parent_id": None}]
    load(NOTICE, [json_lines(tmp_path / "empty.jsonl")])
    assert rows(NOTICE) == []


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


def test_a_csv_row_with_too_few_values_is_bad(lake_home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,parent_id\n1,community-1\n2\n")
    with pytest.raises(LakeError, match=r"a\.csv:3: has not as many values"):
        load(NOTICE, [str(tmp_path / "a.csv")])


@pytest.mark.parametrize(
    ("table", "file", "told"),
    [
        ("we_mart.wv_sess_daily", "a.jsonl", "is built from its SELECT, not loaded"),
        ("we_mart.nothing", "a.jsonl", "there is no table"),
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
