"""Every table gives the same rows on Spark and on Sail, whatever rows its sources hold: `make engines` in small."""

import os
import subprocess
import sys

import pytest

from include.lake import settings
from scripts import engines

# In a process of its own, because PySpark's functions make columns either for Spark Connect or for a Spark in process.
COMMAND = [sys.executable, "-m", "scripts.engines"]


@pytest.mark.spark
def test_hostile_rows_are_read_alike() -> None:
    setting = {"N": "300", "SEED": "4", "ROUNDS": "1"}
    done = subprocess.run(
        COMMAND, cwd=settings.ROOT, env={**os.environ, **setting}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count(" equal ") == len(engines.tables()), done.stdout
    assert ": 0 rows" not in done.stdout, f"a table without a row proves nothing:\n{done.stdout}"
