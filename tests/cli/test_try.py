"""`./lake try`: what a SELECT gives as it is edited now, and nothing is written."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from include.lake import settings
from include.lake.cli import main as cli
from include.lake.state import ledger
from include.lake.storage import delta_files as storage
from tests.shop import CONTRACT, DAY, NEXT, SELECT, SOURCE, TABLE, build, load

pytestmark = pytest.mark.engine("sail")


def attempt(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main(["try", TABLE, "--day", DAY, *arguments]) == code
    told = capsys.readouterr()
    return told.out + told.err


def test_rows_counts_and_drops_are_told_and_nothing_is_written(shop: Any, capsys: Any) -> None:
    load(("a", 1, DAY), ("a", 2, DAY), ("b", 3, DAY), ("nobody", 1, DAY), ("c", 9, NEXT))
    told = attempt(capsys, "--rows", "1")
    assert re.search(r"^name  total  day$", told, re.M)
    assert re.search(r"^2 rows, 1 dropped \(nameless\) in \d", told, re.M)
    assert len(re.findall(rf"^[ab] +\d  {DAY}$", told, re.M)) == 1
    assert storage.open(TABLE) is None and ledger.read([TABLE]) == []


def test_a_check_that_fails_is_told_with_its_rows(shop: Any, capsys: Any) -> None:
    load(("a", -1, DAY))
    told = attempt(capsys, code=1)
    assert "check `total >= 0` fails 1 time" in told and "name=a, total=-1" in told
    assert "1 row in" in told


def test_an_error_of_a_value_is_told_without_a_sensitive_one(shop: Any, capsys: Any) -> None:
    load(("geheim", 1, DAY))
    shop({"shop/total.sql": SELECT.replace("sum(event.amount)", "count(timestamp(event.name))")})
    problem = "total.sql: cannot be computed over these rows: invalid timestamp: "
    assert f"{problem}geheim" in attempt(capsys, code=1)
    shop({"shop/event.yaml": SOURCE.replace("name: name, type: string", "name: name, type: string, sensitive: true")})
    told = attempt(capsys, code=1)
    assert f"{problem}***" in told and "geheim" not in told


def test_inputs_that_are_missing_are_named(shop: Any, capsys: Any) -> None:
    assert "note: shop.event does not exist: it counts as empty" in attempt(capsys)
    load(("a", 1, NEXT))
    assert f"note: shop.event of {DAY} is missing; what is there of it counts" in attempt(capsys)


def test_the_inputs_may_be_those_of_a_case(shop: Any, capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    from include.lake.build import cases

    monkeypatch.setattr(cases, "folder", lambda: tmp_path)
    folder = tmp_path / "shop" / "total"
    folder.mkdir(parents=True)
    row = f"{{name: a, amount: 5, day: {DAY}}}"
    (folder / "sums.yaml").write_text(f"about: x\nstart: {DAY}\ninputs: {{shop.event: [{row}]}}\nexpect: []\n")
    assert re.search(rf"^a +5  {DAY}$", attempt(capsys, "--case", "sums"), re.M)
    assert "has no case other; it has sums" in attempt(capsys, "--case", "other", code=2)
    assert cli.main(["try", TABLE, "--case", "sums"]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"^a +5  {DAY}$", told, re.M) and "note: the case" not in told
    assert cli.main(["try", TABLE, "--case", "sums", "--day", NEXT]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"note: the case sums is of {DAY}, which it takes without --day\n") and "0 rows" in told


def test_the_difference_to_what_is_published(shop: Any, spark: Any, capsys: Any) -> None:
    load(("same", 1, DAY), ("other", 2, DAY), ("gone", 3, DAY))
    assert "does not exist yet: there is nothing to compare with" in attempt(capsys, "--diff")
    build(spark)
    load(("same", 1, DAY), ("other", 5, DAY), ("added", 3, DAY), ("more", 3, DAY))
    told = attempt(capsys, "--diff")
    assert "3 rows are published: 2 added, 1 gone, 1 changed" in told
    assert "  total: 1 differ, such as 2 -> 5" in told
    shop({"shop/total.yaml": CONTRACT.replace("key: [name]", "key: []")})
    assert "3 rows are published: 3 added, 2 gone, 0 changed" in attempt(capsys, "--diff")
    secret = CONTRACT.replace("type: bigint, comment: 합계", "type: bigint, comment: 합계, sensitive: true")
    shop({"shop/total.yaml": secret})
    assert "  total: 1 differ, such as '***' -> '***'" in attempt(capsys, "--diff")


def test_the_difference_of_an_edited_column_is_a_line(shop: Any, spark: Any, capsys: Any) -> None:
    load(("same", 1, DAY), ("other", 2, DAY))
    build(spark)
    load(("same", 1, DAY), ("more", 2, DAY))
    shop({
        "shop/total.yaml": CONTRACT.replace("name: total, type: bigint", "name: sum, type: bigint")
        .replace("checks: [total >= 0]\n", "").replace("  - {name: day", "  - {name: size, type: int}\n  - {name: day"),
        "shop/total.sql": SELECT.replace("as total", "as sum, 5 as size"),
    })  # fmt: skip
    told = attempt(capsys, "--diff")
    assert "2 rows are published: 1 added, 1 gone, 0 changed" in told
    assert re.findall(r"^  column (.*): it is not compared$", told, re.M) == [
        "sum is new",
        "size is new",
        "total is gone",
    ]
    shop({"shop/total.yaml": CONTRACT.replace("total, type: bigint", "total, type: string")})
    shop({"shop/total.sql": SELECT.replace("sum(event.amount)", "string(sum(event.amount))")})
    told = attempt(capsys, "--diff")
    assert "  column total is string and was bigint: it is not compared" in told and "1 added, 1 gone" in told


def test_what_makes_no_sense_is_one_line(shop: Any, capsys: Any) -> None:
    for arguments, message in {
        ("try", "shop.event", "--day", DAY): "is a source",
        ("try", "shop.totl", "--day", DAY): "did you mean shop.total",
        ("try", TABLE): "name the day with --day D",
        ("try", TABLE, "--day", "2026-1-5"): "is not a day",
    }.items():
        assert cli.main(list(arguments)) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1
    shop({"shop/total.sql": SELECT.replace("event.amount", "event.amonut")})
    load(("a", 1, DAY))
    assert re.search(r"total\.sql:3: there is no column amonut; did you mean amount", attempt(capsys, code=1))


def test_a_saved_edit_is_seen_within_seconds(shop: Any, lake_home: Path) -> None:
    load(("a", 1, DAY))
    program = (
        "import sys; from pathlib import Path; from include.lake import settings\n"
        f"settings.SQL = Path({str(settings.SQL)!r})\n"
        f"from include.lake.cli import main; sys.exit(main.main(['try', {TABLE!r}, '--day', {DAY!r}, '--watch']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program], cwd=settings.ROOT, env=os.environ.copy(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    try:
        lines: list[str] = []
        while not any(line.startswith("1 row ") for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        began = time.monotonic()
        (settings.SQL / "shop" / "total.sql").write_text(SELECT.replace("sum(event.amount)", "sum(event.amount) + 41"))
        while not re.match(rf"a +42  {DAY}", lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1] and time.monotonic() - began < 30, "".join(lines)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in rest
    finally:
        process.kill()
