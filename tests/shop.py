"""A source and a table made of it, shop.event -> shop.total, with loads and builds of them. See the fixture `shop`."""

from typing import Any

import pyarrow as pa

from include.lake.build import runner
from include.lake.project import contracts
from include.lake.storage import delta_files as storage

SOURCE = """\
about: Events.
partitioned_by: [day]
columns:
  - {name: name, type: string}
  - {name: amount, type: bigint}
  - {name: day, type: string}
"""
CONTRACT = """\
about: 하루의 합계.
key: [name]
partitioned_by: [day]
columns:
  - {name: name, type: string, nullable: true, comment: 이름}
  - {name: total, type: bigint, comment: 합계}
  - {name: day, type: string}
  - {name: run_timestamp, type: timestamp}
checks: [total >= 0]
"""
SELECT = """\
select
    event.name,
    sum(event.amount) as total,
    event.day,
    case when event.name = 'nobody' then 'nameless' end as drop_reason
from shop.event as event
where event.day between :start_date and :end_date
group by event.name, event.day
"""
FILES = {"shop/event.yaml": SOURCE, "shop/total.yaml": CONTRACT, "shop/total.sql": SELECT}
TABLE = "shop.total"
DAY, NEXT, LAST = "2026-01-05", "2026-01-06", "2026-01-07"


def load(*rows: tuple[str | None, int | None, str]) -> None:
    columns = list(zip(*rows, strict=True))
    contract = contracts.get("shop.event")
    storage.replace(contract, pa.table([list(c) for c in columns], schema=storage.arrow_schema(contract)))


def build(spark: Any, start: str = DAY, end: str | None = None, **options: Any) -> runner.Outcome:
    return runner.build(TABLE, start, end or start, spark=spark, **{"log": lambda line: None, **options})
