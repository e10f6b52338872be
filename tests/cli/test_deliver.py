"""`./lake sample` in a lake with rows of its user: it takes their place only where the user says so."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deltalake import write_deltalake

from include.lake import settings
from include.lake.cli import main as cli
from include.lake.project import contracts
from include.lake.storage import delta_files as storage
from include.lake.storage.arrow import arrow_schema
from include.sample import generate

LOG, ARTISTS = "service_log.weverse_server_log", "we_mart.we_artist"
DAYS = ["2026-01-04", "2026-01-05", "2026-01-06"]
SAMPLE = ["sample", LOG, ARTISTS, "--from", DAYS[0], "--to", DAYS[-1], "--scale", "0.01"]


def load(folder: Path, table: str, *rows: dict[str, Any], options: tuple[str, ...] = ()) -> None:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["load", table, str(file), *options]) == 0


def rows_of(table: str) -> Counter[str | None]:
    """Day ('' without days) -> its rows."""
    delta, day = storage.open_table(table), contracts.get(table).day_column
    if delta is None:
        return Counter()
    rows = delta.to_pyarrow_table()
    return Counter(rows[day].to_pylist() if day else [""] * rows.num_rows)


def record(table: str) -> dict[str, Any]:
    """What the newest commit of a table says."""
    delta = storage.open_table(table)
    assert delta is not None
    found: dict[str, Any] = json.loads(delta.history(1)[0]["userMetadata"])
    return found


@pytest.fixture
def mine(lake_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A lake with a day of the log and an artist of its user."""
    load(tmp_path, LOG, {"date_id": DAYS[1]})
    load(tmp_path, ARTISTS, {"we_art_id": 1})
    capsys.readouterr()
    return tmp_path


def test_what_was_loaded_stops_the_sample_before_it_writes(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(SAMPLE) == 1
    output = capsys.readouterr()
    first, *lines = output.err.splitlines()
    assert first.startswith("lake: what was loaded is in the way of the sample: nothing was written; --keep ")
    assert "--replace" in first and lines == [f"  {LOG}: {DAYS[1]}", f"  {ARTISTS}"] and output.out == ""
    assert (rows_of(LOG), rows_of(ARTISTS)) == ({DAYS[1]: 1}, {"": 1})
    assert cli.main([*SAMPLE, "--keep", "--replace"]) == 2
    assert cli.main(["sample", LOG, *SAMPLE[3:], "--to", DAYS[0]]) == 0, "a day that is not there is in nobody's way"


def test_the_user_chooses_whether_loaded_days_stay(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SAMPLE, "--keep"]) == 0
    assert f"kept as they are:\n  {ARTISTS}\n  {LOG}: {DAYS[1]}\n" in capsys.readouterr().out
    kept = rows_of(LOG)
    assert kept.keys() == set(DAYS) and kept[DAYS[1]] == 1 and kept[DAYS[0]] > 1 and rows_of(ARTISTS) == {"": 1}
    assert record(LOG) == {"load_id": record(LOG)["load_id"], "table": LOG, "loaded": {DAYS[2]: kept[DAYS[2]]},
                           "empty_days": [], "sample": True}  # fmt: skip
    assert cli.main([*SAMPLE, "--replace"]) == 0
    assert rows_of(LOG)[DAYS[1]] > 1 and rows_of(ARTISTS)[""] > 1 and record(ARTISTS)["sample"]
    version = storage.DeltaTable(storage.address(LOG)).version()
    assert cli.main([*SAMPLE, "--keep"]) == 0
    assert storage.DeltaTable(storage.address(LOG)).version() == version, "sample rows are there, too"


def test_sample_rows_are_replaced_until_somebody_loads_again(
    lake_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert cli.main(SAMPLE) == 0
    delta = storage.open_table(LOG)
    assert delta is not None
    delta.optimize.compact()  # as of maintenance: the rows are the same ones
    assert cli.main([*SAMPLE, "--seed", "2"]) == 0
    load(tmp_path, LOG, {"date_id": DAYS[2]}, options=("--replace-smaller",))
    capsys.readouterr()
    assert cli.main(SAMPLE) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [f"  {LOG}: {DAYS[2]}"]


def test_a_day_that_was_loaded_as_empty_stays_empty(lake_home: Path, tmp_path: Path) -> None:
    load(tmp_path, LOG, {"date_id": DAYS[0]}, options=("--from", DAYS[0], "--to", DAYS[1]))
    assert cli.main(SAMPLE) == 1
    assert cli.main([*SAMPLE, "--keep"]) == 0
    assert rows_of(LOG).keys() == {DAYS[0], DAYS[2]}


def test_rows_of_other_programs_count_as_loaded(lake_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(SAMPLE) == 0
    for table in (LOG, ARTISTS):
        (rows,) = (storage.open_table(table) or pytest.fail("it was made")).to_pyarrow_table().slice(0, 1).to_pylist()
        one = storage.pa.Table.from_pylist([rows], arrow_schema(contracts.get(table)))
        write_deltalake(storage.address(table), one, mode="append")
    capsys.readouterr()
    assert cli.main(SAMPLE) == 1
    error = capsys.readouterr().err
    assert f"  {ARTISTS}\n" in error and f"  {LOG}: 2026-01-0" in error and "older version" not in error


def test_loads_of_an_older_version_count_as_loaded_and_the_message_says_so(
    lake_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their records do not say whether they are sample."""
    contract = contracts.get(LOG)
    (one,) = (rows for _, _, rows in generate.days(DAYS[0], DAYS[0], 0.01, tables=[LOG]))
    older = {"load_id": "a", "table": LOG, "loaded": {DAYS[0]: one.num_rows}, "empty_days": []}
    storage.replace(contract, one, record=older)
    assert cli.main(SAMPLE) == 1
    error = capsys.readouterr().err
    assert f"  {LOG}: {DAYS[0]}\nan older version of the lake delivered some of them, and did not mark " in error
    assert error.endswith("take --replace\n") and cli.main([*SAMPLE, "--replace"]) == 0
    assert cli.main(SAMPLE) == 0


def test_a_day_that_is_loaded_while_the_sample_is_delivered_stays(
    lake_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    days = generate.days

    def meanwhile(*arguments: Any) -> Iterator[Any]:
        for table, day, rows in days(*arguments):
            if day == DAYS[2]:
                load(tmp_path, LOG, {"date_id": day})
            yield table, day, rows

    monkeypatch.setattr(generate, "days", meanwhile)
    assert cli.main(SAMPLE) == 0
    assert rows_of(LOG)[DAYS[2]] == 1 and f"kept as they are:\n  {LOG}: {DAYS[2]}\n" in capsys.readouterr().out


def test_a_day_without_sample_is_an_error_before_anything_is_written(lake_home: Path) -> None:
    assert cli.main(["sample", LOG, ARTISTS, "--from", "2019-01-01", "--to", "2019-01-01"]) == 2
    assert storage.open_table(ARTISTS) is None


def test_a_workspace_gets_no_sample(
    lake_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAKE_ENGINE", settings.DATABRICKS)
    assert cli.main(SAMPLE) == 2
    assert capsys.readouterr().err == (
        "lake: LAKE_ENGINE=databricks: a workspace has sources of its own, and gets no sample\n"
    )


def test_late_events_come_to_sample_days_beside_loaded_ones(lake_home: Path, tmp_path: Path) -> None:
    tracks = ["sample", "rudder.tracks", "--from", DAYS[0], "--to", DAYS[-1], "--scale", "0.05"]
    assert cli.main(tracks) == 0
    loaded = {"id": "1", "anonymous_id": "a", "event": "e", "timestamp": f"{DAYS[1]}T00:00:00Z"}
    load(tmp_path, "rudder.tracks", loaded, options=("--replace-smaller",))
    before = rows_of("rudder.tracks")
    assert cli.main([*tracks, "--late", "--keep"]) == 0
    after = rows_of("rudder.tracks")
    assert after[DAYS[1]] == 1 and after[DAYS[0]] > before[DAYS[0]], "the loaded day stays, the sample day has more"
