"""Sessions of a Spark Connect server: of our own one, or of another machine's."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from include.lake import settings
from include.lake.engine.server import listens
from include.lake.errors import LakeError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# PySpark raises an error of a query, and also logs it with its stack as one line of thousands of characters.
logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)

# A server that does not answer for a quarter of a minute is gone, and our session with it: PySpark itself would try for
# ten minutes. What has gone wrong is then a matter for a retry of the whole build. Each call tries anew, and a build
# that ends makes some: so a server of this machine is not asked again where nobody listens.
_RETRIES: dict[str, Any] = {"max_retries": 5, "max_backoff": 10_000}
# On another machine, docker or an operator restarts a killed server: a container of Spark listens after 20 s.
# On this machine, who starts it also sees that it is not up yet, so we do not wait.
_PATIENCE_SECONDS = 40
# What a client asks when it goes. A server that computes on all cores may never answer, and nobody needs the answer.
_GOODBYES = ("Interrupt", "ReleaseExecute", "ReleaseSession")
_GOODBYE_SECONDS = 5
_THIS_MACHINE = ("localhost", "127.0.0.1")
_PORT = 15002  # the port of Spark Connect if the address has none


@contextmanager
def session(
    address: str,
    conf: Mapping[str, str],
    token: str | None,
    interrupt: "Callable[[SparkSession], object] | None" = None,
) -> "Iterator[SparkSession]":
    """A session with these settings. It ends with the block, and with it whatever still runs in it.

    Otherwise the server would keep it for a while: Airflow ends its tasks without Python's clean-up at exit.
    Ctrl-C while the server computes calls `interrupt` with the session: by default, that asks the server to stop.
    """
    spark = connect(address, conf, token, interrupt)
    try:
        yield spark
    finally:
        # A dead server has no sessions any more, and the client would try for a while to reach it.
        with suppress(Exception):
            _wait_for(*_place(address), patience=0)
            spark.stop()


def connect(
    address: str,
    conf: Mapping[str, str],
    token: str | None,
    interrupt: "Callable[[SparkSession], object] | None" = None,
) -> "SparkSession":
    """A new session. LakeError in one line when the server does not answer, or refuses our token."""
    host, port = _place(address)
    _wait_for(host, port, 0 if host in _THIS_MACHINE else _PATIENCE_SECONDS)
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"  # tells PySpark's functions to make columns of Spark Connect
    import grpc
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession as RemoteSession

    class Policy(DefaultPolicy):
        def can_retry(self, error: BaseException) -> bool:
            return bool(super().can_retry(error)) and (host not in _THIS_MACHINE or listens(port))

    class Deadline(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            if details.method.rpartition("/")[2] in _GOODBYES:
                details = details._replace(timeout=_GOODBYE_SECONDS)
            return continuation(details, request)

    channel = DefaultChannelBuilder(address)
    channel.add_interceptor(Deadline())
    if token:
        # A header: with its own `token` option, the client requires TLS for every host but localhost. The token is not
        # in the address, because PySpark shows the address in errors and keeps it in the environment.
        channel.set("authorization", f"Bearer {token}")
    spark: Any = RemoteSession.builder.channelBuilder(channel).create()
    spark.client.set_retry_policies([Policy(**_RETRIES)])
    ask = spark.client.interrupt_operation

    def interrupted(operation: str) -> None:
        with suppress(Exception):  # which would take the place of the KeyboardInterrupt
            interrupt(spark) if interrupt else ask(operation)

    spark.client.interrupt_operation = interrupted
    try:
        for name, value in conf.items():
            spark.conf.set(name, value)
    except PySparkException as error:
        # PySpark would take this session for the active one, also after the next one is made.
        spark.release_session_on_close = False  # of a server that refuses us
        spark.stop()
        if "UNAUTHENTICATED" not in str(error):
            raise
        anew = ", or restart our own server: `./lake engine stop`, `./lake engine start`"
        raise LakeError(
            f"the server at {host}:{port} refuses our token: set LAKE_ENGINE_TOKEN to the one of the server"
            f"{'' if settings.server_of_others() else anew}"
        ) from None
    return cast("SparkSession", spark)


def require_listening(address: str) -> None:
    """LakeError unless the server listens now."""
    _wait_for(*_place(address), patience=0)


def _place(address: str) -> tuple[str, int]:
    url = urlsplit(address)
    return url.hostname or "localhost", url.port or _PORT


def _wait_for(host: str, port: int, patience: float) -> None:
    """Return when the server listens. The client itself would try for minutes before it reports an error."""
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                cure = "start it, or correct LAKE_ENGINE" if settings.server_of_others() else "./lake engine start"
                raise LakeError(f"Spark Connect at {host}:{port} does not answer ({error}): {cure}") from None
            time.sleep(0.5)
