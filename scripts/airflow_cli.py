"""The `airflow` command for the Airflow of `make run`: scripts/airflow backfill create --dag-id … ."""

import os
import sys

from include.lake.errors import LakeError
from scripts import stack

if __name__ == "__main__":
    try:
        env = stack.env_of_running()
    except LakeError as error:
        sys.exit(f"scripts/airflow: {error}")
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *sys.argv[1:]], env)
