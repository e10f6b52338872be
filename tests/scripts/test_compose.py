"""What docker-compose.yaml promises, and what the scripts of its containers do. No docker is needed."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from include.lake import settings
from include.lake.cli import main as cli
from include.lake.errors import LakeError
from include.lake.state.look import Look
from include.lake.storage import store
from scripts import airflow_env, container

LOG = "service_log.weverse_server_log"
ONE_SHOT = {"secrets", "migrate", "seed"}
SIZES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


# -- the file


def compose_command() -> list[str]:
    for command in (["docker-compose"], ["docker", "compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    if os.environ.get("CI"):
        pytest.fail("docker-compose is missing: .ci/run installs it")
    pytest.skip("docker-compose is not installed")


def config(folder: Path, env_file: str, *options: str) -> dict[str, Any]:
    """docker-compose.yaml as docker-compose understands it, with this .env beside it."""
    command = compose_command()
    shutil.copy(settings.ROOT / "docker-compose.yaml", folder)
    (folder / ".env").write_text(env_file)
    own = ("LAKE_", "POSTGRES_", "COMPOSE_", "PIP_", "DAYS", "SCALE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    done = subprocess.run([*command, *options, "config"], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is not set" not in done.stderr, "a variable without a default"
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@pytest.fixture
def services(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = config(tmp_path, (settings.ROOT / ".env.example").read_text(), "--profile", "spark-ui")[
        "services"
    ]
    assert len(found) == 10
    return found


def ports(service: dict[str, Any]) -> list[str]:
    """Published ports, which docker-compose 1 writes as text and 2 as mappings."""

    def text(port: Any) -> str:
        return port if isinstance(port, str) else "{host_ip}:{published}:{target}/{protocol}".format(**port)

    return [text(port) for port in service.get("ports", [])]


def mounts(service: dict[str, Any]) -> dict[str, bool]:
    """Where something is mounted, and whether it can be written to."""
    parted = [volume.split(":") for volume in service["volumes"] if isinstance(volume, str)]
    found = {target: mode != ["ro"] for _, target, *mode in parted}
    return found | {v["target"]: not v.get("read_only") for v in service["volumes"] if not isinstance(v, str)}


def size(text: str) -> int:
    return int(text[:-1]) * SIZES[text[-1]] if text[-1] in SIZES else int(text)


def test_one_port_is_published_and_on_this_machine_alone(services: dict[str, Any]) -> None:
    published = {name: ports(service) for name, service in services.items() if service.get("ports")}
    assert published == {
        "airflow-api-server": ["127.0.0.1:8080:8080/tcp"],
        "spark-ui": ["127.0.0.1:4040:4040/tcp"],
    }
    assert services["spark-ui"]["profiles"] == ["spark-ui"], "not started unless it is asked for"


def test_the_memory_limits_fit_into_8_gb(services: dict[str, Any]) -> None:
    limits = {name: size(str(service["mem_limit"])) for name, service in services.items()}
    assert sum(limits.values()) <= 8 << 30, limits


def test_a_service_is_started_again_and_tells_its_health(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in ONE_SHOT:
            assert service["restart"] == "no", name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_nobody_but_the_database_image_starts_as_root(services: dict[str, Any]) -> None:
    assert not [name for name, service in services.items() if service.get("user") or service.get("privileged")]
    assert {service["image"] for name, service in services.items() if name != "postgres"} == {"lake"}
    users = re.findall(r"^USER (\S+)", (settings.ROOT / "Dockerfile").read_text(), re.M)
    assert users[-1] == "airflow"


def test_the_project_is_mounted_and_cannot_be_written_to(services: dict[str, Any]) -> None:
    for name, service in services.items():
        ours = {target: writable for target, writable in mounts(service).items() if target.startswith("/opt/lake/")}
        assert (name == "postgres") == (not ours), name
        assert not any(ours.values()), name


def test_the_secrets_of_others_are_out_of_sparks_reach(services: dict[str, Any]) -> None:
    """A SELECT may read files."""
    with_secrets = {name for name, service in services.items() if "/secrets" in mounts(service)}
    assert with_secrets == {"secrets", "migrate", "postgres", *(f"airflow-{name}" for name in airflow_env.AIRFLOW)}
    assert [name for name in with_secrets if mounts(services[name])["/secrets"]] == ["secrets"], "who may write them"
    assert not services["spark"]["environment"].keys() & container.secret_files().keys()


def test_the_image_has_what_its_set_up_reads(tmp_path: Path) -> None:
    """Before the set-up the image has only some files and no packages (-S): they have to be all that it imports."""
    steps = (settings.ROOT / "Dockerfile").read_text().replace("\\\n", " ").split("\nRUN ")[0]
    for copied in re.findall(r"^COPY (.*)$", steps, re.M):
        *sources, target = copied.split()
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        for source in (settings.ROOT / source for source in sources):
            if source.is_dir():  # docker copies what is in a folder, not the folder
                shutil.copytree(source, tmp_path / target, dirs_exist_ok=True)
            else:
                shutil.copy(source, tmp_path / target)
    load = (
        "import importlib.util as i; s = i.spec_from_file_location('s', 'scripts/setup.py'); m = i.module_from_spec(s)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{load}; s.loader.exec_module(m); print(m.LOCK)"], cwd=tmp_path, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).resolve() == (tmp_path / "requirements.lock").resolve()


def test_no_secret_is_in_the_project(services: dict[str, Any]) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=settings.ROOT, capture_output=True, text=True).stdout.split()
    assert "docker-compose.yaml" in tracked and ".env" not in tracked
    for name in container.secret_files():
        assert re.search(rf"^{name}=$", (settings.ROOT / ".env.example").read_text(), re.M), f"{name} is empty there"
        for service in services.values():
            assert not service.get("environment", {}).get(name)


def test_an_env_file_without_anything_will_do(tmp_path: Path) -> None:
    found = config(tmp_path, "")["services"]
    assert ports(found["airflow-api-server"]) == ["127.0.0.1:8080:8080/tcp"]
    assert found["spark"]["environment"] == {"LAKE_ENGINE_CORES": "*", "LAKE_ENGINE_MEMORY": "2g"}


def test_databricks_instead_of_spark(tmp_path: Path) -> None:
    """What .env.example shows, without its comment signs."""
    text = re.sub(r"^# ((LAKE|AIRFLOW)_\w+=)", r"\1", (settings.ROOT / ".env.example").read_text(), flags=re.M)
    found = config(tmp_path, text)["services"]
    for name in ("seed", *(f"airflow-{name}" for name in airflow_env.AIRFLOW)):
        seen = found[name]["environment"]
        assert (seen["LAKE_ENGINE"], seen["LAKE_CATALOG"]) == (settings.DATABRICKS, "wev_dev")
        assert seen["LAKE_SQL_WAREHOUSE"] and seen["LAKE_WHEEL"].endswith(".whl")
        assert seen["AIRFLOW_CONN_DATABRICKS_DEFAULT"].startswith("databricks://")


def test_settings_of_the_env_file_arrive(tmp_path: Path) -> None:
    given = "LAKE_UI_PORT=8099\nLAKE_ENGINE_CORES=4\nLAKE_ENGINE_MEMORY=3g\nLAKE_SPARK_CONTAINER_MEMORY=4g\n"
    found = config(tmp_path, given + "AIRFLOW_CONN_DATABRICKS_DEFAULT=databricks://token:T@host\n")["services"]
    assert ports(found["airflow-api-server"]) == ["127.0.0.1:8099:8080/tcp"]
    assert found["spark"]["environment"] == {"LAKE_ENGINE_CORES": "4", "LAKE_ENGINE_MEMORY": "3g"}
    assert size(str(found["spark"]["mem_limit"])) == 4 << 30
    for name in airflow_env.AIRFLOW:
        seen = found[f"airflow-{name}"]["environment"]
        assert seen["AIRFLOW_CONN_DATABRICKS_DEFAULT"] == "databricks://token:T@host"
        assert seen["LAKE_ENGINE"] == f"sc://spark:{container.SPARK_PORT}"


# -- what the containers run


@pytest.fixture
def places(tmp_path: Path, lake_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of a container, under one that is the test's."""
    monkeypatch.setattr(container, "SECRETS", tmp_path / "secrets")
    monkeypatch.setattr(container, "AIRFLOW_HOME", tmp_path / "airflow")
    for name in container.secret_files():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAKE_ENGINE", f"sc://spark:{container.SPARK_PORT}")
    return tmp_path


def secrets_now() -> dict[str, str]:
    return {name: container.secret(name) for name in container.secret_files()}


def test_secrets_are_made_once_and_nobody_else_reads_them(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert container.main("secrets") == 0
    first = secrets_now()
    assert len(first) == len(set(first.values())) == 6
    assert all(len(value) >= 24 for value in first.values())
    assert {path.stat().st_mode & 0o777 for path in container.secret_files().values()} == {0o600}
    told = capsys.readouterr().out
    assert "LAKE_UI_PASSWORD: made" in told
    assert not [value for value in first.values() if value in told]
    assert container.main("secrets") == 0
    assert secrets_now() == first
    assert capsys.readouterr().out == ""


def test_what_env_gives_wins_and_is_kept(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container.main("secrets")
    made = secrets_now()
    monkeypatch.setenv("LAKE_UI_PASSWORD", "mine")
    assert container.main("secrets") == 0
    assert secrets_now() == made | {"LAKE_UI_PASSWORD": "mine"}
    monkeypatch.delenv("LAKE_UI_PASSWORD")
    assert container.main("secrets") == 0
    assert secrets_now() == made | {"LAKE_UI_PASSWORD": "mine"}


def test_another_password_of_a_database_that_is_there_is_one_line(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "first")
    assert container.main("secrets") == 0
    capsys.readouterr()
    monkeypatch.setenv("POSTGRES_PASSWORD", "second")
    assert container.main("secrets") == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"lake: POSTGRES_PASSWORD is not the one .* leave it empty in \.env.*\n", told)
    assert "second" not in told and container.secret("POSTGRES_PASSWORD") == "first"


def test_another_engine_is_one_line_that_names_env_and_shell(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAKE_ENGINE", "sail")
    assert container.main("seed") == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"lake: LAKE_ENGINE of .* in \.env and in your shell: `unset LAKE_ENGINE`.*\n", told)


def test_without_secrets_one_line_says_which_is_missing(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert container.main("airflow", "scheduler") == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"lake: LAKE_FERNET_KEY is missing \(.*fernet-key: .*docker-compose up secrets.*\.env\n", told)
    assert container.main("spark") == 1
    assert re.fullmatch(r"lake: .*wants a token.*LAKE_ENGINE_TOKEN.*\n", capsys.readouterr().err)


def test_a_password_that_the_database_refuses_is_one_line(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**address: object) -> None:
        raise psycopg2.OperationalError('FATAL:  password authentication failed for user "airflow"')

    container.main("secrets")
    capsys.readouterr()
    monkeypatch.setattr(psycopg2, "connect", refuse)
    assert container.main("migrate") == 1
    assert re.fullmatch(
        r"lake: PostgreSQL was made with another password.*POSTGRES_PASSWORD.*\n", capsys.readouterr().err
    )


def test_a_database_that_is_not_up_is_waited_for(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    def connect(**address: object) -> str:
        tries.append(address)
        if len(tries) < 3:
            raise psycopg2.OperationalError("Connection refused")
        return "connected"

    container.main("secrets")
    monkeypatch.setattr(psycopg2, "connect", connect)
    assert container.connect() == "connected"
    tries.clear()
    with pytest.raises(LakeError, match=r"for PostgreSQL: `docker-compose up -d postgres` \(Connection refused"):
        container.connect(seconds=0)


def test_airflow_in_a_container_has_the_settings_of_make_run(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container.main("secrets")
    monkeypatch.setenv("LAKE_UI_PORT", "8099")
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "True")
    monkeypatch.setenv("AIRFLOW_CONN_DATABRICKS_DEFAULT", "databricks://host")
    here, there = airflow_env.of_make_run(8099, "postgresql://here"), container.airflow_env()
    options = {name for name in there if name.startswith("AIRFLOW__")}
    assert options - here.keys() == {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"}
    assert here.keys() - there.keys() == set()
    differs = {name for name in here if here[name] != there[name]}
    secret = {"AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY"}
    place = {"AIRFLOW_HOME", "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", "AIRFLOW__LOGGING__BASE_LOG_FOLDER"}
    network = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "AIRFLOW__API__HOST",
               "AIRFLOW__API__PORT"}  # fmt: skip
    assert differs - {"AIRFLOW__CORE__PARALLELISM"} == secret | place | network
    assert there["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:8099"
    assert there["AIRFLOW_CONN_DATABRICKS_DEFAULT"] == "databricks://host"
    passwords = Path(there["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    assert json.loads(passwords.read_text()) == {airflow_env.USER: container.secret("LAKE_UI_PASSWORD")}
    assert passwords.stat().st_mode & 0o077 == 0


def test_a_password_with_signs_of_an_address_is_written_so_that_it_is_none(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "a@b:c/d%e")
    container.main("secrets")
    assert "://airflow:a%40b%3Ac%2Fd%25e@postgres/" in container.airflow_env()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


def test_seeding_makes_the_days_that_are_not_there(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAYS", "2")
    monkeypatch.setenv("SCALE", "0.01")
    assert container.main("seed") == 0
    assert "making sample data" in capsys.readouterr().out
    assert (settings.home() / "warehouse/ops/partition_build/_delta_log").is_dir()
    assert container.main("seed") == 0
    assert capsys.readouterr().out == ""


def test_databricks_gets_no_sample_and_an_engine_that_is_not_there_is_one_line(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAKE_ENGINE", settings.DATABRICKS)
    assert container.main("seed") == 0
    assert not (settings.home() / "warehouse").exists() and capsys.readouterr().out == ""
    monkeypatch.setenv("LAKE_ENGINE", settings.SAIL)
    assert container.main("seed") == 1
    assert re.fullmatch(r"lake: LAKE_ENGINE of docker-compose is .* or databricks\n", capsys.readouterr().err)


def test_a_lake_of_sample_data_gets_that_of_new_sources(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lake that is older than a family of tables. A lake of real data gets none."""
    # From 15:00 UTC on the newest day of Seoul is not that of UTC: both families are to have the same one here.
    monkeypatch.setattr(container.sample, "newest_day", lambda: "2026-01-05")
    monkeypatch.setenv("DAYS", "2")
    monkeypatch.setenv("SCALE", "0.01")
    assert container.main("seed") == 0
    shutil.rmtree(settings.home() / "warehouse" / "rudder")
    capsys.readouterr()
    assert container.main("seed") == 0
    assert capsys.readouterr().out == "", "nothing needs it"
    monkeypatch.setenv("FAMILIES", "wev,rudder")
    note = settings.home() / "run" / "sample.json"
    of_sample = note.read_text()
    note.unlink()
    assert container.main("seed") == 0
    assert capsys.readouterr().out == "", "the data is not a sample"
    note.write_text(of_sample)
    assert container.main("seed") == 0
    assert "making sample data of rudder.tracks for" in capsys.readouterr().out
    assert len(Look().files("rudder.tracks")) == 2
    assert container.main("seed") == 0
    assert capsys.readouterr().out == ""


def test_seeding_leaves_what_the_user_loaded_and_does_not_fail_because_of_it(
    places: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`make run` starts the same command."""
    monkeypatch.setattr(container.sample, "newest_day", lambda: "2026-01-05")
    monkeypatch.setenv("DAYS", "2")
    monkeypatch.setenv("SCALE", "0.01")
    for table, row in (("we_mart.we_artist", {"we_art_id": 1}), (LOG, {"date_id": "2026-01-04"})):
        (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
        assert cli.main(["load", table, str(tmp_path / "mine.jsonl")]) == 0
    for _ in range(2):
        assert container.main("seed") == 0
        artists = store().open("we_mart.we_artist")
        assert artists and store().rows(artists).num_rows == 1
        files = Look().files(LOG)
        assert files["2026-01-04"].rows == 1 and files["2026-01-05"].rows > 1
    note = settings.home() / "run" / "sample.json"
    note.write_text(json.dumps({"scale": 0.01, "unfinished": ["2026-01-04"]}))
    assert container.main("seed") == 0
    assert Look().files(LOG)["2026-01-04"].rows == 1 and Look().files("we_mart.we_user")["2026-01-04"].rows


def test_seeding_that_was_stopped_half_way_is_done_again(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCALE", "0.01")
    monkeypatch.setenv("DAYS", "1")
    assert container.main("seed") == 0
    monkeypatch.setenv("DAYS", "2")
    with monkeypatch.context() as stopped:
        stopped.setattr(cli, "main", lambda arguments: 1)
        assert container.main("seed") == 1
    capsys.readouterr()
    assert container.main("seed") == 0
    assert "making sample data" in capsys.readouterr().out


def test_the_forwarder_passes_both_ways_on() -> None:
    """A server on one address, the forwarder on all of another one's: here on two ports of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            there, _ = server.accept()
            with there:
                there.sendall(there.recv(100).upper())

        threading.Thread(target=answer, daemon=True).start()
        forwarder = container.forwarder("127.0.0.1", port, listen=("127.0.0.1", 0))
        threading.Thread(target=forwarder.serve_forever, daemon=True).start()
        with socket.create_connection(forwarder.server_address, timeout=5) as client:
            client.sendall(b"spark")
            assert client.recv(100) == b"SPARK"
            assert client.recv(100) == b""
        forwarder.shutdown()
        forwarder.server_close()


def test_without_docker_the_test_of_the_stack_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.compose_test"], cwd=settings.ROOT, env={"PATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(r"make compose-test: docker-compose is missing: .*\n", done.stderr)
