"""The lake's own Spark: its settings, and the command of its Spark Connect server. It does not import pyspark."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

from include.lake import settings
from include.lake.engine.server import state_folder, temporary_folder
from include.lake.engine.toolchain import jar_paths, java_home
from include.lake.errors import LakeError


def spark_conf() -> dict[str, str]:
    """The settings of every Spark that we start, the server as well as one inside a process."""
    return {
        # SELECTs take days from UTC. The timezone of the machine must not matter.
        "spark.sql.session.timeZone": "UTC",
        # A timestamp is an instant, as in the contracts, and not a wall clock time.
        "spark.sql.timestampType": "TIMESTAMP_LTZ",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        # On the class path, because spark.jars would copy the jars at every start. We have one process only.
        "spark.driver.extraClassPath": os.pathsep.join(str(path) for path in jar_paths()),
        # Spark reads tables by their path. A catalog on disk would be a second truth, and Derby would lock it.
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": str(state_folder() / "warehouse"),  # empty: of tables of a catalog
        "spark.driver.memory": settings.engine_memory(),
        # Parallel GC needs a fifth less CPU than G1 on 2 cores. Its longer pauses do not matter for builds.
        "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
        # A day is small: 200 partitions (the default) cost seconds on 2 cores, and AQE merges small ones anyway.
        "spark.sql.shuffle.partitions": "4",
        # The same for Delta when it reads a log; the default is 50.
        "spark.databricks.delta.snapshotPartitions": "2",
        # Vectored IO is for object stores: on a disk it starts three threads for each small file.
        "spark.hadoop.parquet.hadoop.vectored.io.enabled": "false",
        # Spark listens on this machine only. The Spark UI is off, because it has no login.
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        # Keep compiled classes for the next build. A table has some hundred; Spark keeps 100 by default.
        "spark.sql.codegen.cache.maxEntries": "2000",
        # By default Spark keeps the plans of 1,000 queries for its UI, 2 MB each for a wide SELECT. They filled a
        # server of 2 GB after some hundred builds.
        "spark.sql.ui.retainedExecutions": "10",
        "spark.ui.retainedJobs": "50",
        "spark.ui.retainedStages": "50",
        "spark.ui.retainedTasks": "1000",
        # A session may be idle for a week, such as that of a `./lake try --watch`; by default an hour.
        "spark.connect.session.manager.defaultSessionTimeout": "7d",
        "spark.connect.ui.retainedSessions": "10",
        "spark.connect.ui.retainedStatements": "10",
        # Spark creates up to 1,024 threads per pool before it reuses one. Each thread keeps its session alive, with the
        # table snapshots of its views: about 4 MB per build. 16 threads are enough.
        "spark.sql.shuffleExchange.maxThreadThreshold": "16",
        "spark.sql.broadcastExchange.maxThreadThreshold": "16",
        "spark.sql.resultQueryStage.maxThreadThreshold": "16",
        "spark.log.level": "WARN",
        "spark.ui.showConsoleProgress": "false",
    }


def serve(port: int) -> NoReturn:
    """Become a server for other machines, with a token: this is the main process of a container."""
    if not settings.engine_token():
        raise LakeError(
            f"a server for other machines wants a token: set LAKE_ENGINE_TOKEN or {settings.engine_token_file()}"
        )
    arguments, environment = command(port, "0.0.0.0", ui=True)
    os.chdir(state_folder())
    os.execve(arguments[0], arguments, environment)


def command(port: int, listen: str = "127.0.0.1", ui: bool = False) -> tuple[list[str], dict[str, str]]:
    """The command that runs a server, and its environment."""
    package = importlib.util.find_spec("pyspark")
    if not package or not package.submodule_search_locations:
        raise LakeError("pyspark is not installed: run `make setup`")
    spark_home = Path(package.submodule_search_locations[0])
    temp = temporary_folder("server")
    conf = spark_conf()
    conf |= {
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.local.dir": str(temp),
        "spark.driver.extraJavaOptions": f'{conf["spark.driver.extraJavaOptions"]} "-Djava.io.tmpdir={temp}"',
        "spark.connect.grpc.binding.address": listen,
        "spark.connect.grpc.binding.port": str(port),
        "spark.ui.enabled": str(ui).lower(),
    }
    arguments = [str(spark_home / "bin" / "spark-submit"), "--master", f"local[{settings.engine_cores()}]"]
    arguments += ["--name", "lake"]
    for name, value in conf.items():
        arguments += ["--conf", f"{name}={value}"]
    # SPARK_* variables may name another Spark of this machine, which must not replace this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPARK_")}
    # SPARK_LOCAL_IP is where the Spark UI listens.
    environment |= {"SPARK_HOME": str(spark_home), "SPARK_LOCAL_IP": listen, "JAVA_HOME": str(java_home())}
    environment |= {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(settings.ROOT)}
    if token := settings.engine_token():  # not as a setting: other users could see it in the list of processes
        environment["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = token
    return [*arguments, str(settings.ROOT / "include" / "lake" / "engine" / "spark_main.py")], environment
