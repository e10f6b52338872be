"""Which days are stale, exactly: random histories against brute force, and how long it takes. No Spark."""

import gc
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.lake import settings
from include.lake.project import lineage
from include.lake.project.days import day_range, days_before
from include.lake.state import ledger
from include.lake.state.look import Look
from include.lake.storage import delta_files as storage
from tests.pretend import BUILT, SOURCE, build, load, select


class BruteForce:
    """Every day as the text of all that went into it; stale is what would come out different now."""

    def __init__(self, reads: dict[str, dict[str, int | str]], days: list[str]) -> None:
        self.reads, self.days = reads, days
        self.source: dict[tuple[str, str], str] = {}
        self.built: dict[tuple[str, str], str] = {}
        self.code = dict.fromkeys(reads, 0)

    def window(self, earlier: int | str, day: str) -> list[str]:
        first = self.days[0] if earlier == "all" else days_before(day, int(earlier))
        return [known for known in self.days if first <= known <= day]

    def content(self, table: str, day: str, fresh: bool) -> str:
        """What is in the day: with `fresh` what would be there if everything up to it were built again now."""
        if table not in self.reads:
            return self.source.get((table, day), "-")
        if not fresh:
            return self.built.get((table, day), "-")
        parts = [
            f"{name} {of} {self.content(name, of, fresh and self.is_due(name, earlier, of, day))}"
            for name, earlier in sorted(self.reads[table].items())
            for of in self.window(earlier, day)
        ]
        return f"{table}:{self.code[table]}({', '.join(parts)})"

    def is_due(self, name: str, earlier: int | str, of: str, day: str) -> bool:
        """Is a day of an input waited for: not an earlier one that was never built, before its first or with `all`."""
        history = [known for table, known in self.built if table == name]
        return of == day or of in history or (earlier != "all" and bool(history) and of > min(history))

    def state(self, table: str, day: str) -> str:
        if (table, day) not in self.built:
            return "missing"
        return "fresh" if self.built[table, day] == self.content(table, day, fresh=True) else "stale"

    def build(self, table: str, day: str) -> None:
        parts = [
            f"{name} {of} {self.content(name, of, fresh=False)}"
            for name, earlier in sorted(self.reads[table].items())
            for of in self.window(earlier, day)
        ]
        self.built[table, day] = f"{table}:{self.code[table]}({', '.join(parts)})"


@pytest.mark.parametrize("seed", range(60))
def test_the_stale_days_are_exactly_those_of_brute_force(seed: int, project, lake_home: Path) -> None:
    chance = random.Random(seed)
    days = day_range("2026-01-05", "2026-01-09")
    sources = ["shop.one", "shop.two"]
    reads: dict[str, dict[str, int | str]] = {}
    for name in ["shop.a", "shop.b", "shop.c"]:
        inputs = chance.sample([*sources, *reads], chance.randint(1, 2))
        reads[name] = {table: chance.choice([0, 0, 1, 2, "all"]) for table in inputs}

    def write(only: str | None = None) -> None:
        files = {f"{name.replace('.', '/')}.yaml": SOURCE for name in sources}
        for name, inputs in reads.items():
            earlier = {table: days for table, days in inputs.items() if days}
            lines = "".join(f"  {table}: {count}\n" for table, count in earlier.items())
            files[f"{name.replace('.', '/')}.yaml"] = BUILT + (f"reads:\n{lines}" if lines else "")
            files[f"{name.replace('.', '/')}.sql"] = select(*inputs).replace(
                "t.amount", f"t.amount + {truth.code[name]} as amount"
            )
        project(files)

    truth = BruteForce(reads, days)
    write()
    for source in sources:
        load(source, *days)
        truth.source |= {(source, day): "0" for day in days}
    for step in range(1, 9):
        what = chance.random()
        if what < 0.3:  # a late file
            source, day = chance.choice(sources), chance.choice(days)
            load(source, day)
            truth.source[source, day] = str(step)
        elif what < 0.4:  # another SELECT
            truth.code[chance.choice(list(reads))] += 1
            write()
        else:  # a build of a range
            table = chance.choice(list(reads))
            first = chance.choice(days)
            span = day_range(first, chance.choice([day for day in days if day >= first]))
            lake = Look()
            if not lake.absent_inputs(table, span[0], span[-1]):
                due = [day for day in span if lake.own_state(table, day).state != "fresh"]
                if due:  # as the runner does: fresh days are not built again
                    build(table, due)
                for day in due:
                    truth.build(table, day)
        lake = Look()
        found = {(table, day): lake.state(table, day).state for table in reads for day in days}
        assert found == {cell: truth.state(*cell) for cell in found}, f"seed {seed}, step {step}"


def test_fifty_tables_by_730_days_take_less_than_three_seconds(project, lake_home: Path) -> None:
    days = day_range("2024-01-01", "2025-12-30")
    assert len(days) == 730
    tables = [f"shop.t{n:02}" for n in range(50)]
    files = {"shop/event.yaml": SOURCE}
    for n, table in enumerate(tables):
        above = ["shop.event"] if n < 10 else ["shop.event", tables[n - 10]]
        files[f"{table.replace('.', '/')}.sql"] = select(*above)
        files[f"{table.replace('.', '/')}.yaml"] = BUILT + ("reads: {shop.event: all}\n" if n % 5 == 0 else "")
    project(files)
    load("shop.event", *days)
    for table in lineage.in_order(tables):
        build(table, days)
    load("shop.event", days[-1])
    gc.collect()
    gc.freeze()  # else Python's garbage collector looks through all that other tests have left, again and again
    began = time.process_time()
    lake = Look()
    states = [lake.state(table, day).state for table in tables for day in days]
    seconds = time.process_time() - began
    gc.unfreeze()
    assert seconds < 3, f"{seconds:.2f} s"
    assert states.count("stale") == 50 and states.count("fresh") == 50 * 729


def test_a_process_that_ends_right_after_reading_the_ledger_ends_well(lake_home: Path) -> None:
    for day in day_range("2026-01-01", "2026-01-10"):
        ledger.failed("a.b", "id", 0, [day], "an id", "test", "code", {}, 1.0, {}, "a reason")
    read = "from include.lake.state import ledger; print(len(ledger.read()))"
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", read], cwd=settings.ROOT, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "10\n", "")


def test_what_killed_writers_left_goes_after_a_week_and_nothing_else(
    project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_HOME", str(tmp_path / "a lake"))  # a space, which a URL would spell otherwise
    project({"shop/event.yaml": SOURCE})
    load("shop.event", "2026-01-05")
    folder = Path(storage.address("shop.event"))
    names = ["day=2026-01-05/orphan.parquet", "_delta_log/.00000000000000000009.json.x.tmp"]
    week_old = time.time() - 8 * 86400
    for name in names:
        for path, age in ((folder / name, week_old), (folder / name.replace("0", "1"), time.time())):
            path.parent.mkdir(exist_ok=True)
            path.write_text("half")
            os.utime(path, (age, age))
    before = {path for path in folder.rglob("*") if path.is_file()}
    storage.maintain("shop.event")
    assert before - {path for path in folder.rglob("*") if path.is_file()} == {folder / name for name in names}
