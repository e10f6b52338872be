"""Law 6, nothing unchecked: rows that fail a check are never seen, by whoever reads whatever version.

`make wap N=1000` injects more failures than every run of the tests.
"""

import random
from typing import Any

import pytest
from deltalake import DeltaTable

from include.lake.build import runner
from include.lake.errors import CheckFailed
from include.lake.state import ledger
from tests import builders
from tests.conftest import ENGINES
from tests.shop import CONTRACT, SELECT, TABLE, load

FAILURES = builders.how_many(12)
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
# What is wrong with the rows -> a source row that makes it so; the check of each is in the contract below.
FAULTS: dict[str, tuple[str | None, int | None]] = {
    "a row": ("low", -1),
    "a null": (None, 1),
    "a day as a whole": ("high", 10_000),
    "a key": ("twice", 1),
    "a query": ("forbidden", 1),
}

STRICT = CONTRACT.replace("nullable: true", "nullable: false").replace(
    "checks: [total >= 0]",
    "checks:\n  - total >= 0\n  - sum(total) < 10000\n  - select name from this where name = 'forbidden'",
)
# One name comes twice, which breaks the key.
TWICE = SELECT.replace(
    "from shop.event as event",
    "from shop.event as event\nlateral view explode(sequence(1, if(event.name = 'twice', 2, 1))) copy as n",
).replace("group by event.name,", "group by copy.n, event.name,")

pytestmark = pytest.mark.spark


def bad_rows(delta: DeltaTable) -> list[str]:
    rows = delta.to_pyarrow_table().to_pylist()
    bad = [str(row) for row in rows if is_bad(row)]
    return bad + ["a key twice"] * (len(rows) - len({(row["name"], row["day"]) for row in rows}))


def is_bad(row: dict[str, Any]) -> bool:
    return row["total"] is None or not 0 <= row["total"] < 10_000 or row["name"] in (None, "forbidden")


@ENGINES
def test_failures_in_between_good_builds(shop: Any, spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shop({"shop/total.yaml": STRICT, "shop/total.sql": TWICE})
    chance, good, caught = random.Random(FAILURES), 0, dict.fromkeys(FAULTS, 0)
    failures = builders.sample(FAILURES)
    progress = builders.Progress(failures, "failures")
    with builders.Reader(bad_rows) as reader:
        while sum(caught.values()) < failures:
            what = chance.choice(list(FAULTS)) if (good + sum(caught.values())) % 4 else None
            day = chance.choice(DAYS)
            rows = [(f"name{n}", chance.randint(0, 9), of) for of in DAYS for n in range(3)]
            if what:
                rows.append((*FAULTS[what], day))
            load(*rows)
            first, last = (day, day) if chance.random() < 0.5 else (DAYS[0], DAYS[-1])
            try:
                runner.build(TABLE, first, last, spark=spark, log=lambda line: None)
                assert what is None, f"{what} was published"
                good += 1
            except CheckFailed:
                assert what, "good rows were refused"
                caught[what] += 1
                assert max(ledger.read([builders.TABLE]), key=lambda row: row["built_at"])["status"] == "failed"
                progress.add()
    with capsys.disabled():
        print(f"\n{sum(caught.values())} failures in between {good} good builds: {caught}; "
              f"{reader.versions} versions read, {len(reader.wrong)} bad rows seen")  # fmt: skip
    assert reader.wrong == []
    assert good and reader.versions > good / 2
