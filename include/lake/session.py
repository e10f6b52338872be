"""A Spark session: of the Connect server that is named or running, else one inside this process."""

import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from pyspark.sql import DataFrame, SparkSession

from include.lake import settings, spark_server
from include.lake.errors import LakeError

# PySpark prints each error of a query with its stack as one line of many thousand characters, besides raising it.
logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)

# What must hold in any session, whoever started its server.
SESSION_CONF = {
    # Days are cut from UTC, and casts do not depend on a zone.
    "spark.sql.session.timeZone": "UTC",
    # A build of no rows over no rows is a build: its commit carries the record that says so.
    "spark.databricks.delta.skipRecordingEmptyCommits": "false",
}


def connect() -> SparkSession:
    """The session to build with. LakeError in one line when the named server does not answer."""
    address = settings.spark_remote() or spark_server.address()
    if address is None:
        return _in_process()
    url = urlsplit(address)
    try:
        socket.create_connection((url.hostname or "localhost", url.port or 15002), timeout=10).close()
    except OSError as error:
        # Asked here because the client itself would try for minutes before it says so.
        where = f"{url.hostname}:{url.port}"
        raise LakeError(f"Spark Connect at {where} does not answer ({error}): ./lake spark start") from None
    spark = SparkSession.builder.remote(address).getOrCreate()
    for name, value in SESSION_CONF.items():
        spark.conf.set(name, value)
    return spark


def _in_process() -> SparkSession:
    os.environ["JAVA_HOME"] = str(spark_server.java_home())
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder: Any = SparkSession.builder.master("local[*]").appName("lake")
    quiet = {"spark.log.level": "ERROR"}  # it shares the terminal with what the command line says
    for name, value in {**spark_server.spark_conf(), **SESSION_CONF, **quiet}.items():
        builder = builder.config(name, value)
    session: SparkSession = builder.getOrCreate()
    return session


def read_version(spark: SparkSession, table: str, version: int) -> DataFrame:
    """The table as it was at one version of its Delta log."""
    return spark.read.format("delta").option("versionAsOf", version).load(str(settings.table_path(table)))
