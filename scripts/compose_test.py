"""`make compose-test`: starts docker-compose.yaml, tests its promises one by one, and removes everything.

It uses a copy of the project, and a separate compose project, port and image. It needs docker, docker-compose (1.29 or
newer) and the two public images or a registry with them. KILL="spark postgres" kills only these services.
FAMILIES=wev,rudder,audio starts these families of DAGs.
"""

import http.server
import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from include.lake import settings
from include.lake.errors import LakeError
from include.lake.local import wait
from include.lake.project import contracts, task_lists
from include.lake.project.days import days_before
from include.lake.storage import store
from scripts import container, stack
from scripts.airflow_env import USER
from scripts.api import Api, built_tables, dag_ids, families
from scripts.seed import DEFAULT_DAYS, DEFAULT_SCALE, newest_day
from scripts.stack import Clock

PROJECT = "lake-compose-test"
# The files of the image, and those that compose mounts into it.
COPIED = ("docker-compose.yaml", "Dockerfile", ".dockerignore", ".env.example", "requirements.lock", "lake", "dags",
          "plugins", "include", "scripts")  # fmt: skip
SCHEDULER = "airflow-scheduler"
KILLED = ("spark", "postgres", "airflow-api-server", "airflow-dag-processor", "airflow-triggerer", SCHEDULER)
OURS = ("--filter", f"label=com.docker.compose.project={PROJECT}")
SCALE = ("--scale", str(DEFAULT_SCALE))
WANTED_COLD, WANTED_EDIT = 180, 15
# A fixed port, because docker reuses its build cache only if the address stays the same.
JARS_PORT = 18443
# Airflow retries after one or two minutes, so after this time something is stuck.
PATIENCE_SECONDS = 600
EDITED = "we_mart.wv_sess_daily"
EDIT = ("+ 1 as sess_dur", "+ 100001 as sess_dur")


def main() -> int:
    say = Clock()
    compose = find_compose()
    for number in stack.STOP_SIGNALS:
        signal.signal(number, lambda got, frame: sys.exit(f"make compose-test: stopped by signal {got}"))
    folder = Path(tempfile.mkdtemp(prefix="lake-compose-"))
    test = Test(compose, folder / "project", say)
    try:
        test.copy()
        test.build()
        test.up()
        test.build_without_docker()
        test.tables_are_right()
        test.others_are_paused()
        test.closed()
        test.keeps_secrets()
        test.edits()
        for service in os.environ.get("KILL", " ".join(KILLED)).split():
            test.kill(service)
        test.down_and_up()
    except (LakeError, subprocess.CalledProcessError) as error:
        test.failed = str(error)
        log = Path(tempfile.gettempdir(), "lake-compose-test.log")
        log.write_text(test.compose("logs", "--no-color", check=False))
        print(f"the logs of the containers: {log}", flush=True)
    finally:
        test.removed()
        shutil.rmtree(folder, ignore_errors=True)
    print("\n" + "\n".join(test.figures))
    if test.failed:
        print(f"make compose-test: {test.failed}", file=sys.stderr)
    return 1 if test.failed else 0


def find_compose() -> list[str]:
    """The compose command of this machine. LakeError with the cure if docker or its daemon is missing."""
    for command in (["docker", "compose"], ["docker-compose"]):
        with suppress(FileNotFoundError):
            if subprocess.run([*command, "version"], capture_output=True).returncode == 0:
                break
    else:
        raise LakeError("docker-compose is missing: install it (Debian: apt-get install docker.io docker-compose)")
    daemon = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if daemon.returncode:
        raise LakeError(f"no docker daemon answers: start it ({daemon.stderr.strip().splitlines()[-1]})")
    return command


class Test:
    def __init__(self, compose: list[str], folder: Path, say: Clock) -> None:
        self.command, self.folder, self.say = compose, folder, say
        self.failed = ""
        self.figures: list[str] = []
        self.day = newest_day()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        own = ("LAKE_", "POSTGRES_", "COMPOSE_", "DAYS", "SCALE", "FAMILIES")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.env |= {"COMPOSE_PROJECT_NAME": PROJECT, "LAKE_IMAGE": PROJECT}
        self.env["LAKE_MAVEN_REPOSITORY"] = os.environ.get("LAKE_MAVEN_REPOSITORY", "")
        self.expected: dict[str, list[str]] = {}

    def compose(self, *arguments: str, check: bool = True, quiet: bool = False) -> str:
        """Run docker-compose and give its output; with `quiet` only stdout. LakeError with its end if it fails."""
        with tempfile.TemporaryFile("w+") as output:  # one file keeps stdout and stderr in their order
            done = subprocess.run(
                [*self.command, *arguments], cwd=self.folder, env=self.env, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if quiet else output, stderr=output,
            )  # fmt: skip
            output.seek(0)
            words = output.read()
        if check and done.returncode:
            last = "\n".join((words + (done.stdout or "")).splitlines()[-15:])
            raise LakeError(f"{shlex.join([*self.command, *arguments])} failed:\n{last}")
        return done.stdout or words

    def inside(self, *command: str, service: str = SCHEDULER) -> str:
        return self.compose("exec", "-T", service, *command, quiet=True)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        def answer() -> Any:
            with suppress(OSError):
                return condition()

        return wait.until(answer, PATIENCE_SECONDS, what, pause=0.5, waiting=self.say.still)

    def require(self, good: object, what: str) -> None:
        if not good:
            raise LakeError(f"not so: {what}")
        self.say(f"so it is: {what}")

    def figure(self, what: str, seconds: float, wanted: float = 0) -> None:
        limit = f" (wanted: under {wanted:g} s)" if wanted else ""
        self.figures.append(f"{what}: {seconds:.1f} s{limit}; load of the machine {os.getloadavg()[0]:.1f}")
        self.say(self.figures[-1])
        if wanted and seconds > wanted:
            self.failed = self.figures[-1]

    # -- the steps

    def copy(self) -> None:
        self.folder.mkdir()
        for name in COPIED:
            source, ignored = settings.ROOT / name, shutil.ignore_patterns("__pycache__")
            copied = partial(shutil.copytree, ignore=ignored) if source.is_dir() else shutil.copy
            copied(source, self.folder / name)
        text = (self.folder / ".env.example").read_text()
        text = re.sub(r"LAKE_UI_PORT=\d+", f"LAKE_UI_PORT={self.port}", text)
        (self.folder / ".env").write_text(re.sub(r"FAMILIES=\w+", f"FAMILIES={','.join(families())}", text))
        self.folder.parent.chmod(0o755)  # the containers run as another user
        self.compose("down", "-v", "--remove-orphans")  # removes the containers of a killed test

    def build(self) -> None:
        began = time.monotonic()
        if not self.env["LAKE_MAVEN_REPOSITORY"]:
            self.env["LAKE_MAVEN_REPOSITORY"] = serve_jars()
        self.compose("build")
        self.figure("docker-compose build", time.monotonic() - began)

    def up(self) -> None:
        began = time.monotonic()
        self.compose("up", "-d")
        self.figure("docker-compose up -d (to its return)", time.monotonic() - began)
        self.api = self.login()
        for dag_id in dag_ids():
            self.until_green(dag_id)
        wanted = WANTED_COLD if families() == ["wev"] else 0
        self.figure(f"cold up to the first green run of {len(dag_ids())} DAGs", time.monotonic() - began, wanted)

    def others_are_paused(self) -> None:
        """The DAGs of the families that .env does not name are there, and nobody has started them."""
        others = sorted({path.stem for path in task_lists.paths()} - set(dag_ids()))
        found = [dag_id for dag_id in others if (self.ask("GET", f"/dags/{dag_id}") or {}).get("is_paused")]
        self.require(found == others, f"the other DAGs are paused: {', '.join(others) or 'there is none'}")

    def login(self) -> Api:
        password = self.inside("cat", "/secrets/ui-password", service="airflow-api-server").strip()
        api = Api(f"http://127.0.0.1:{self.port}", USER, password)
        self.until(api.up, "the Airflow UI")
        return api

    def run_of(self, dag_id: str) -> dict[str, Any]:
        """The run of the day. LakeError if it has failed, because it is useless to wait then."""
        answer = self.ask("GET", f"/dags/{dag_id}/dagRuns?partition_key_prefix_pattern={self.day}&limit=1")
        run: dict[str, Any] = answer["dag_runs"][0] if answer and answer["dag_runs"] else {"state": None}
        if run["state"] == "failed":
            raise LakeError(f"the run of {dag_id} is red")
        return run

    def until_green(self, dag_id: str) -> None:
        self.until(lambda: self.run_of(dag_id)["state"] == "success", f"a green run of {dag_id}")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the API. None if there is no answer, because the test also kills the API server."""
        try:
            return self.api(method, path, body)
        except (OSError, LakeError, ValueError):
            return None

    def status(self) -> dict[str, dict[str, Any]]:
        states = json.loads(self.inside("./lake", "status", "--from", self.day, "--to", self.day, "--json"))
        return {row["table"]: row for row in states}

    def build_without_docker(self) -> None:
        """Build the same day without docker, in a separate lake on this machine."""
        home = self.folder.parent / "lake"
        lake(home, "sample", "--from", days_before(self.day, DEFAULT_DAYS - 1), "--to", self.day, *SCALE)
        lake(home, "build", *built_tables(), "--from", self.day, "--to", self.day)
        self.expected = {table: rows(home, table, self.day) for table in built_tables()}
        assert all(self.expected.values())

    def tables_are_right(self) -> None:
        """All built tables are fresh, and their rows are the same as those of the build without docker."""
        status = self.status()
        self.require(
            all(status[name]["state"] == "fresh" for name in built_tables()), "every table of the day is fresh"
        )
        with tempfile.TemporaryDirectory() as folder:
            with open(Path(folder, "tar"), "wb") as file:
                command = [*self.command, "exec", "-T", SCHEDULER, "tar", "-C", "/lake", "-c", "warehouse"]
                subprocess.run(command, cwd=self.folder, env=self.env, stdout=file, check=True)
            subprocess.run(["tar", "-C", folder, "-xf", file.name], check=True)
            theirs = {table: rows(Path(folder), table, self.day) for table in built_tables()}
        counts = ", ".join(f"{table} {len(data):,}" for table, data in theirs.items())
        self.require(theirs == self.expected, f"the rows are those of ./lake without docker ({counts})")

    def closed(self) -> None:
        """docker publishes one port, on 127.0.0.1. Spark requires a token. No service runs as root."""
        listed = docker("ps", *OURS, "--format", "{{.Ports}}")
        published = [part for part in re.split(r"[,\n]\s*", listed) if "->" in part]
        self.require(published == [f"127.0.0.1:{self.port}->8080/tcp"], f"only {published} is published")
        config = "r = ConfigRequest(session_id=str(uuid.uuid4())); r.operation.get.keys.append('spark.app.name')"
        call = (
            "import sys, uuid, grpc; from pyspark.sql.connect.proto import ConfigRequest, SparkConnectServiceStub\n"
            f"{config}\nstub = SparkConnectServiceStub(grpc.insecure_channel('spark:{container.SPARK_PORT}'))\n"
            "try: print(stub.Config(r, timeout=30))\nexcept grpc.RpcError as error: print(error.code())"
        )
        answer = self.inside(".venv/bin/python", "-c", call)
        self.require("UNAUTHENTICATED" in answer, f"Spark without its token: {answer.strip()}")
        for service in KILLED:
            lines = docker("top", self.id(service), "-eo", "pid,uid,comm").splitlines()[1:]
            # A health check runs as the user of the image. In the image of PostgreSQL this is root.
            users = {uid for _, uid, program, *_ in map(str.split, lines) if program != "pg_isready"}
            self.require(users and "0" not in users, f"{service} runs as user {', '.join(sorted(users))}")

    def id(self, service: str) -> str:
        return docker("ps", "-q", *OURS, "--filter", f"label=com.docker.compose.service={service}").strip()

    def keeps_secrets(self) -> None:
        """No secret is in the configuration, in the environments that docker shows, or in the logs."""
        values = self.inside("sh", "-c", "cat /secrets/* /lake/engine/token").split()
        ids = docker("ps", "-aq", *OURS).split()
        shown = self.compose("config") + docker("inspect", *ids) + self.compose("logs", "--no-color")
        self.require(len(set(values)) == len(container.secret_files()), f"{len(values)} secrets are made")
        self.require(not [value for value in values if value in shown], "no secret is in config, inspect or logs")

    def edits(self) -> None:
        """After an edit of a SELECT, a cleared task gives the new result. The UI shows the edited text of a DAG."""
        path = self.folder / contracts.get(EDITED).select_path.relative_to(settings.ROOT)
        text = path.read_text()
        assert EDIT[0] in text
        path.write_text(text.replace(*EDIT))
        dag_id = "analytics_we_mart_wv1_daily"
        began = time.monotonic()
        self.clear(dag_id, EDITED)
        self.until_green(dag_id)
        self.figure("edit of a SELECT, clear, result", time.monotonic() - began, WANTED_EDIT)
        rows = f"store().rows(store().open('{EDITED}'), {{'part_date': ['{self.day}']}})"
        code = f"from include.lake.storage import store; print(min({rows}['sess_dur'].to_pylist()))"
        smallest = self.inside(".venv/bin/python", "-c", code).strip()
        self.require(int(smallest) > 100_000, f"the table has what was edited (the smallest sess_dur is {smallest})")
        path.write_text(text)
        lists = self.folder / "dags" / "utils" / "dynamic_dag" / "wev" / "task_list" / f"{dag_id}.py"
        lists.write_text(lists.read_text().replace('"""', '"""Edited. ', 1))
        began = time.monotonic()

        def shows() -> bool:
            return "Edited. " in (self.ask("GET", f"/dags/{dag_id}") or {}).get("description", "")

        self.until(shows, "the edit in the UI")
        self.figure("edit of a DAG, shown in the UI", time.monotonic() - began)
        self.clear(dag_id, EDITED)
        self.until_green(dag_id)
        self.tables_are_right()

    def clear(self, dag_id: str, task: str) -> None:
        body = {"dry_run": False, "dag_run_id": self.run_of(dag_id)["dag_run_id"], "task_ids": [task]}
        self.api("POST", f"/dags/{dag_id}/clearTaskInstances", {**body, "only_failed": False})

    def kill(self, service: str) -> None:
        """Make the day stale, run it again, and kill the service while a table is built."""
        self.inside("./lake", "sample", "--from", self.day, "--to", self.day, *SCALE)
        for dag_id in dag_ids():
            run = self.run_of(dag_id)["dag_run_id"]
            self.api("POST", f"/dags/{dag_id}/dagRuns/{run}/clear", {"dry_run": False, "only_failed": False})
        self.until(self.building, "a build that runs")
        time.sleep(3)  # into its work
        name = self.id(service)
        pid, before = docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", name).split()
        # Kill the process from outside of the container, as the kernel does when memory runs out. After `docker kill`,
        # docker would not start the container again.
        docker("run", "--rm", "--pid=host", "--user=0", "--entrypoint=kill", PROJECT, "-9", pid)
        began = time.monotonic()
        self.say(f"{service} is killed")

        def is_back() -> bool:
            running, started = docker("inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", name).split()
            return running == "true" and started != before

        self.until(is_back, f"{service} to be started again")
        for dag_id in dag_ids():
            self.until_green(dag_id)
        self.figure(f"{service} killed in a run, to green runs", time.monotonic() - began)
        self.tables_are_right()

    def building(self) -> bool:
        answer = self.ask("GET", "/dags/~/dagRuns/~/taskInstances?state=running&limit=100")
        return bool(answer and [task for task in answer["task_instances"] if task["task_id"] in built_tables()])

    def down_and_up(self) -> None:
        """`down` keeps the data and the secrets."""
        password = self.inside("cat", "/secrets/ui-password")
        before = {name: row["built_at"] for name, row in self.status().items()}
        self.compose("down")
        self.require(len(self.volumes()) == 4, f"down keeps {', '.join(self.volumes())}")
        began = time.monotonic()
        self.compose("up", "-d")
        self.api = self.login()
        self.figure("down, and up again", time.monotonic() - began)
        self.require(self.inside("cat", "/secrets/ui-password") == password, "the password is the same as before")
        self.require({name: row["built_at"] for name, row in self.status().items()} == before, "so are the tables")
        self.require(all(self.run_of(d)["state"] == "success" for d in dag_ids()), "and the runs")

    def removed(self) -> None:
        self.compose("down", "-v", "--remove-orphans", check=False)
        self.say(f"down -v leaves {self.volumes() or 'nothing'}")
        if self.volumes() and not self.failed:
            self.failed = "down -v left volumes"

    @staticmethod
    def volumes() -> list[str]:
        return docker("volume", "ls", "-q", *OURS).split()


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise LakeError(f"docker {shlex.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def serve_jars() -> str:
    """Serve the Delta jars of this machine to the image build, and give the URL; "" if docker cannot reach it."""

    class Jars(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(settings.jars() / Path(path).name)

        def log_message(self, format: str, *args: object) -> None:
            pass

    subnet = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}").strip()
    gateway = str(next(ipaddress.ip_network(subnet).hosts()))
    try:
        server = http.server.ThreadingHTTPServer((gateway, JARS_PORT), Jars)
    except OSError:  # docker is in a virtual machine
        return ""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{gateway}:{server.server_port}"


def lake(home: Path, *arguments: str) -> None:
    """Run ./lake with its own Spark, as on any machine."""
    env = {name: value for name, value in os.environ.items() if name not in ("LAKE_ENGINE", "LAKE_ENGINE_TOKEN")}
    env |= {"LAKE_HOME": str(home), "PYTHONPATH": str(settings.ROOT)}
    command = [sys.executable, "-P", "-m", "include.lake.cli", *arguments]
    done = subprocess.run(command, env=env, text=True, capture_output=True)
    if done.returncode:
        raise LakeError(f"./lake {shlex.join(arguments)} failed: {done.stderr.strip()[-2000:]}")


def rows(home: Path, table: str, day: str) -> list[str]:
    """The sorted rows of a day, or all of a table kept by key; without the time of their build."""
    before, contract = os.environ.get("LAKE_HOME"), contracts.get(table)
    os.environ["LAKE_HOME"] = str(home)
    try:
        snapshot = store().open(table)
        if snapshot is None:
            return []
        data = store().rows(snapshot, None if contract.kept_by else {str(contract.day_column): [day]})
    finally:
        os.environ.pop("LAKE_HOME") if before is None else os.environ.update(LAKE_HOME=before)
    names = [name for name in contract.column_names if name != contracts.RUN_TIMESTAMP]
    return sorted(json.dumps(row, default=str) for row in data.select(names).to_pylist())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LakeError as error:
        sys.exit(f"make compose-test: {error}")
