"""Law 4, cut anywhere: builders and servers are killed at random instants, and nothing is lost, repeated or left.

`make faults N=100` tries more kills than every run of the tests.
"""

import os
import random
import re
import time
from collections import deque
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from include.lake import settings
from include.lake.engine import server
from include.lake.storage import delta_files as storage
from tests import builders
from tests.builders import DAYS, TABLE, Reader, build, deliver, some_days, start

KILLS = builders.how_many(10)
SERVERS = 4  # one kill in so many is that of the server, which takes seconds to come back

pytestmark = pytest.mark.e2e


@pytest.fixture
def shop(lake_home: Path, project: Any, request: pytest.FixtureRequest) -> Any:
    with builders.a_shop(request.param, project):
        yield


@builders.ON_BOTH
def test_kills_at_random_instants(shop: None, capsys: pytest.CaptureFixture[str]) -> None:
    chance, kills = random.Random(KILLS), builders.sample(KILLS)
    delivered = dict.fromkeys(DAYS, 0)
    for _ in range(2):  # the first build on a new server takes longer than those after it
        deliver(0, DAYS)
        seconds = deque([builders.settle(delivered)], maxlen=5)
    landed, killed, progress = 0, {"builder": 0, "server": 0}, builders.Progress(kills, "kills")
    with Reader(builders.broken_days) as reader:
        for number in range(1, kills + 1):
            late = some_days(chance)
            deliver(number, late)
            delivered |= dict.fromkeys(late, number)
            builder = start(build, DAYS[0], DAYS[-1], chance.random() < 0.3)
            time.sleep(chance.uniform(0, 1.2 * median(seconds)))
            if number % SERVERS:
                builder.kill()
                killed["builder"] += 1
            else:
                state = server._state()
                assert state is not None
                os.kill(state["pid"], 9)
                killed["server"] += 1
            builder.join(builders.SECONDS)
            assert builder.exitcode is not None, "a builder hangs whose server was killed"
            landed += builder.exitcode == 0
            if server.address() is None:
                server.start(settings.engine(), lambda line: None)
            # The second try, as Airflow makes it.
            seconds.append(builders.settle(delivered))
            progress.add()
    assert reader.wrong == []
    assert reader.versions > kills
    assert landed < kills, "every kill came too late to prove anything"
    with capsys.disabled():
        print(f"\n{killed} kills, {landed} builds ended before; {reader.versions} versions read, "
              f"{len(reader.wrong)} bad reads; a build takes {median(seconds):.1f} s")  # fmt: skip
    nothing_stays(delivered)


def nothing_stays(delivered: dict[str, int]) -> None:
    """What killed builders have left goes when its time has come, and no more than that."""
    storage.maintain(TABLE, timedelta(0))
    folder = Path(storage.address(TABLE))
    data = {str(path.relative_to(folder)) for path in folder.glob("*/*") if "_delta_log" not in str(path)}
    needed = {action["path"] for action in delta_files()}
    # Hadoop's checksum stands beside each file that Spark writes, and goes with it.
    assert {path for path in data if not path.endswith(".crc")} == needed
    # Neither a stage of Sail nor half a commit is left.
    stages = [path for path in (server.state_folder() / "stage").glob("*/*") if path.exists()]
    assert stages == []
    names = [path.name for path in (folder / "_delta_log").iterdir()]
    assert [
        name for name in names if not re.fullmatch(r"\.?\d{20}\..*|_last_checkpoint|\._last_checkpoint\.crc", name)
    ] == []
    builders.check_the_lake(delivered)


def delta_files() -> list[dict[str, Any]]:
    import pyarrow as pa

    delta = storage.open_table(TABLE)
    assert delta is not None
    return pa.table(delta.get_add_actions(flatten=True)).to_pylist()
