"""The `airflow` command for the Airflow of `make run`: scripts/airflow backfill create --dag-id … .

In a container of docker-compose.yaml it serves the Airflow of the containers.
"""

import os
import sys

from include.lake.errors import LakeError

if __name__ == "__main__":
    try:
        if os.environ.get("LAKE_IN_CONTAINER"):
            from scripts import container

            env = container.airflow_env()
        else:
            from scripts import stack

            env = stack.env_of_running()
    except LakeError as error:
        sys.exit(f"scripts/airflow: {error}")
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *sys.argv[1:]], env)
