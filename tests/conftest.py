"""Fixtures of all tests: one local Spark session, which starts only when a test uses it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.lake import settings
from include.lake.engine import spark_server, toolchain

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# For a handful of rows: one partition, no code generation and no adaptive plans. These cost more than the queries.
QUICK = {
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
}

# Servers of tests live for a minute or two. That is too short for Java's second compiler: without it, twelve builds
# need a third less CPU. The Spark of the tests lives as long as the tests, so there the second compiler pays.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1"

# Not in every run of the tests: it takes minutes. `make thorough` runs these.
THOROUGH = pytest.mark.skipif(not os.environ.get("N"), reason="make thorough runs it")

# These tests take long, so they begin first. One that begins last would run alone at the end.
LONG = ["test_e2e", "test_laws", "test_faults", "test_races", "test_real_log", "test_wap"]
OF_DATABRICKS = ["test_databricks", "test_unity_catalog", "test_runs_of_databricks"]


def pytest_configure(config: pytest.Config) -> None:
    """Give each run its own LAKE_HOME, so that no test uses the lake of the user, even without `lake_home`."""
    home = os.environ["LAKE_HOME"] = tempfile.mkdtemp(prefix="lake-tests-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ.pop("LAKE_WAREHOUSE", None)
    # Those tests that do not choose an engine take this one.
    os.environ.setdefault("LAKE_ENGINE", settings.SAIL)
    os.environ["JDK_JAVA_OPTIONS"] = JAVA_OPTIONS
    # PySpark forks to start its Java. With gRPC's own part in a fork, after a test on Spark Connect, now and then that
    # process ends before it is Java (JAVA_GATEWAY_EXITED, and epoll_wait says: bad file descriptor).
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first, so that a simple mistake appears in seconds; then those of LONG, then other slow tests.

    Each test goes to a process by itself. Those of Databricks go together, and first, for they share one Spark; and so
    do those on a Spark inside the process: Java compiles Spark once, and not once in each process.
    """

    def place(item: pytest.Item) -> int:
        if item.path.stem in OF_DATABRICKS:
            return -2
        if not any(item.get_closest_marker(name) for name in ("spark", "e2e")):
            return -1
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=place)
    for item in items:
        if item.path.stem in OF_DATABRICKS:
            item.add_marker(pytest.mark.xdist_group("databricks"))
        elif _engine_of(item) == settings.SPARK:
            item.add_marker(pytest.mark.xdist_group("spark"))


def _engine_of(item: pytest.Item) -> str | None:
    """The engine on which the fixture `spark` gives a session, if the test names one."""
    if "spark" not in getattr(item, "fixturenames", ()):
        return None
    marker, of_test = item.get_closest_marker("engine"), getattr(item, "callspec", None)
    return (of_test and of_test.params.get("spark")) or (marker.args[0] if marker else None)


@pytest.fixture
def spark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> "SparkSession":
    """A session of the engine that the test names (@pytest.mark.engine("spark") or `ENGINES`), or of LAKE_ENGINE."""
    marker = request.node.get_closest_marker("engine")
    engine = getattr(request, "param", None) or (marker.args[0] if marker else settings.engine())
    monkeypatch.setenv("LAKE_ENGINE", engine)
    if engine == settings.SAIL:
        # With it PySpark's functions make columns for Connect, and without it for a Spark inside the process.
        monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")
    else:
        monkeypatch.delenv("SPARK_CONNECT_MODE_ENABLED", raising=False)
    session: SparkSession = request.getfixturevalue(f"of_{engine}")
    return session


# For a test that proves something on both engines; and on Databricks, too.
ENGINES = pytest.mark.parametrize("spark", [settings.SAIL, settings.SPARK], indirect=True)
EVERYWHERE = pytest.mark.parametrize(
    "spark", [settings.SAIL, settings.SPARK, pytest.param(settings.DATABRICKS, marks=THOROUGH)], indirect=True
)


@pytest.fixture(scope="session")
def of_sail() -> Iterator["SparkSession"]:
    """Sail in a process of its own."""
    from include.lake.engine import sail

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKE_ENGINE", settings.SAIL)
        patch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")
        with sail.opened() as session:
            yield session


@pytest.fixture(scope="session")
def of_spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SparkSession"]:
    """Spark for a handful of rows, with one thread."""
    from pyspark.sql import SparkSession

    from include.lake.engine.spark import SESSION_CONF

    os.environ["JAVA_HOME"] = str(toolchain.java_home())
    jars = sorted(str(path) for path in settings.jars().glob("*.jar"))
    if not jars:
        pytest.fail(f"no jars in {settings.jars()}: run `make setup`, or set LAKE_JARS to the folder of the Delta jars")
    config = {
        "spark.jars": ",".join(jars),
        "spark.driver.memory": "2g",
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=4",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        **SESSION_CONF,
        "spark.hadoop.parquet.hadoop.vectored.io.enabled": "false",
        # The same limits as our server. Otherwise old plans and sessions fill the heap.
        **{name: kept for name, kept in spark_server.spark_conf().items() if "retained" in name or "Threshold" in name},
        **QUICK,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        # Delta keeps the newest snapshot of each table for an hour, some MB each. The tests use many lakes in turn.
        "spark.databricks.delta.delta.log.cacheSize": "100",
    }
    builder = SparkSession.builder.master("local[1]").appName("tests")
    for name, value in config.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[str, str, SparkSession]]":
    """Address, token and a session of one Spark with Delta, which the tests of Databricks share."""
    from tests.databricks import statements  # it imports this module

    with (
        statements.spark_server(tmp_path_factory.mktemp("cluster")) as (address, token),
        statements.session(address, token) as session,
    ):
        yield address, token, session


@pytest.fixture
def on_databricks(monkeypatch: pytest.MonkeyPatch) -> None:
    from include.lake.storage import unity_catalog
    from tests.databricks import sources, statements  # it imports this module

    monkeypatch.setenv("LAKE_ENGINE", settings.DATABRICKS)
    monkeypatch.setenv("LAKE_CATALOG", statements.CATALOG)
    # The owners of the sources write them. In tests this process is all of them.
    monkeypatch.setattr(unity_catalog, "replace", sources.replace)


@pytest.fixture
def of_databricks(
    cluster: "tuple[str, str, SparkSession]", on_databricks: None, monkeypatch: pytest.MonkeyPatch
) -> "Iterator[SparkSession]":
    """This process is a run of Databricks with an empty catalog."""
    from include.lake.engine import databricks
    from include.lake.storage import unity_catalog
    from tests.databricks import statements  # it imports this module

    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")
    monkeypatch.setattr(databricks, "_entered", None)
    session = cluster[2]
    statements.empty_catalog(session)
    yield databricks.enter(session)
    unity_catalog.use(None)


@pytest.fixture
def lake_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty lake for one test."""
    monkeypatch.setenv("LAKE_HOME", str(tmp_path / "lake"))
    return tmp_path / "lake"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Gives a function that adds contracts and SELECTs (path under include/sql -> text) to those of the project."""
    folder = tmp_path / "sql"
    shutil.copytree(settings.SQL, folder)
    monkeypatch.setattr(settings, "SQL", folder)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def shop(
    project: Callable[[dict[str, str]], None], lake_home: Path, spark: "SparkSession"
) -> Callable[[dict[str, str]], None]:
    """An empty lake with the two tables of tests/shop.py, and Spark to build them; gives `project`."""
    # Not above: they import pyspark, which the quick tests do without.
    from tests.shop import FILES

    project(FILES)
    return project
