"""The process that `./lake engine start` leaves waiting: a command is done by it as by itself, or by itself."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from include.lake import settings
from include.lake.local import wait
from tests.shop import DAY, FILES, TABLE

BY_ITSELF = "import sys; from include.lake.cli.main import main; sys.exit(main())"


@dataclass
class Checkout:
    """A copy of the code with the tables of the shop, and its lake, in a folder with a blank and a long name."""

    root: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), "LAKE_HOME": str(self.home), "LAKE_ENGINE": settings.SAIL}

    def command(self, *arguments: str) -> list[str]:
        # Python says what it imports: so a test sees who has done the command.
        return [sys.executable, "-X", "importtime", "-P", "-m", "include.lake.cli", *arguments]

    def lake(self, *arguments: str) -> tuple[int, str, str, bool]:
        """Exit code, stdout, stderr of a command, without its seconds; and was it done by the process that waits?"""
        done = self._done(self.command(*arguments))
        lines = done.stderr.splitlines(keepends=True)
        told = "".join(line for line in lines if not line.startswith("import time:"))
        imported = any("include.lake.cli.main" in line for line in lines if line.startswith("import time:"))
        return done.returncode, _timeless(done.stdout), _timeless(told), not imported

    def by_itself(self, *arguments: str) -> tuple[int, str, str]:
        done = self._done([sys.executable, "-P", "-c", BY_ITSELF, *arguments])
        return done.returncode, _timeless(done.stdout), _timeless(done.stderr)

    def _done(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, env=self.environment, cwd=self.home.parent, capture_output=True, text=True, timeout=60, check=False
        )

    def processes(self) -> list[psutil.Process]:
        """Those that wait, and their forks."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                of_home = process.environ().get("LAKE_HOME") == str(self.home)
                if of_home and "include.lake.cli.warm" in process.cmdline():
                    found.append(process)
        return found

    def waits(self) -> bool:
        return (self.home / "engine" / "warm.sock").exists()


def _timeless(text: str) -> str:
    return re.sub(r"\d+\.\d s", "0.0 s", text)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("include/lake", "dags"):
        shutil.copytree(settings.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "task_list"))
    shutil.copy(settings.ROOT / "requirements.lock", folder)
    for name, text in FILES.items():
        path = folder / "include" / "sql" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    there = Checkout(folder, folder / "a lake" / ("long " * 20).strip())
    there.home.parent.mkdir()
    code, _, told, _ = there.lake("engine", "start")
    assert code == 0, told
    try:
        wait.until(there.waits, 30, "the process that waits")
        yield there
    finally:
        there.lake("engine", "stop")
    wait.until(lambda: not there.processes(), 10, "its end with the engine")
    assert not there.waits()


@pytest.mark.parametrize(
    "arguments",
    [["try", TABLE, "--day", DAY], ["lineage"], ["status", "--from", DAY, "--to", DAY], ["try"], ["show", "no.table"],
     ["show-sql", TABLE], ["try", "--help"]],
    ids=lambda arguments: " ".join(arguments[:2]),
)  # fmt: skip
def test_a_command_does_the_same_as_by_itself(checkout: Checkout, arguments: list[str]) -> None:
    *done, waited = checkout.lake(*arguments)
    assert waited, "it was done by itself"
    assert done == [*checkout.by_itself(*arguments)]


@pytest.fixture
def busy(checkout: Checkout) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start a command that waits for ever: it reads a SELECT whose writer says nothing."""
    select = checkout.root / "include" / "sql" / "shop" / "slow.sql"
    (select.parent / "slow.yaml").write_text(FILES["shop/total.yaml"])
    os.mkfifo(select)
    writers, started = [], []

    def reads() -> bool:
        with suppress(OSError):
            writers.append(os.open(select, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-P", "-m", "include.lake.cli", "lineage"]
        started.append(subprocess.Popen(command, env=checkout.environment, stderr=subprocess.PIPE, text=True))
        wait.until(reads, 20, "the command that reads")
        return started[0]

    yield start
    for process in started:
        process.kill()
    for writer in writers:
        os.close(writer)
    select.unlink()
    (select.parent / "slow.yaml").unlink()


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "lake: stopped; "), (signal.SIGTERM, -15, ""), (signal.SIGKILL, -9, "")],
)
def test_a_command_ends_with_the_terminal(
    checkout: Checkout, busy: Callable[[], "subprocess.Popen[str]"], sent: signal.Signals, code: int, said: str
) -> None:
    """Whatever ends the command in the terminal ends its fork, too."""
    command = busy()
    assert len(checkout.processes()) == 2
    command.send_signal(sent)
    _, told = command.communicate(timeout=20)
    assert command.returncode == code
    assert told.startswith(said)
    wait.until(lambda: len(checkout.processes()) == 1, 10, "the end of the fork")


def test_a_command_pauses_with_the_terminal(checkout: Checkout, busy: Callable[[], "subprocess.Popen[str]"]) -> None:
    command = busy()
    both = [psutil.Process(command.pid), *(one for one in checkout.processes() if one.parent() in checkout.processes())]
    assert len(both) == 2

    def are(status: str) -> Callable[[], bool]:
        return lambda: [one.status() == status for one in both] == [True, True]

    command.send_signal(signal.SIGTSTP)
    wait.until(are(psutil.STATUS_STOPPED), 10, "Ctrl-Z")
    command.send_signal(signal.SIGCONT)
    wait.until(are(psutil.STATUS_SLEEPING), 10, "fg")


def test_a_process_that_is_stuck_and_one_who_says_nothing_are_waited_for_by_nobody(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = checkout.processes()[0]
    waiting.suspend()
    try:
        code, told, _, waited = checkout.lake("lineage")
        assert (code, waited) == (0, False) and "shop.event" in told
    finally:
        waiting.resume()
    with socket.socket(socket.AF_UNIX) as silent:
        monkeypatch.chdir(checkout.home / "engine")
        silent.connect("warm.sock")
        assert checkout.lake("lineage")[3] is True
        wait.until(lambda: len(checkout.processes()) == 1, 10, "the end of who waited for it")


ASK = "import sys; from include.lake.cli import warm; open(sys.argv[1], 'w').write(str(warm.run(['lineage'])))"


@pytest.mark.parametrize(
    ("closed", "code"), [("", "0"), ("<&-", "None"), (">&-", "None"), ("2>&-", "None"), (">&- 2>&-", "None")]
)
def test_with_a_closed_stream_a_command_is_done_by_itself(
    checkout: Checkout, closed: str, code: str, tmp_path: Path
) -> None:
    """What the command opens has the number of the stream then: it is no terminal to write to."""
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-P", "-c", ASK, str(tmp_path / "code")]
    subprocess.run(command, env=checkout.environment, capture_output=True, check=False, timeout=60)
    assert (tmp_path / "code").read_text() == code
    shown = ["sh", "-c", f'"$@" {closed}', "sh", *checkout.command("lineage")]
    assert subprocess.run(shown, env=checkout.environment, capture_output=True, check=False).returncode == 0


def test_the_files_of_a_command_have_the_umask_of_who_asks(checkout: Checkout) -> None:
    shutil.rmtree(checkout.home / "engine" / "stage", ignore_errors=True)
    done = subprocess.run(
        ["sh", "-c", 'umask 007; exec "$@"', "sh", *checkout.command("try", TABLE, "--day", DAY)],
        env=checkout.environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert (checkout.home / "engine" / "stage").stat().st_mode & 0o777 == 0o770


def test_settings_of_python_count(checkout: Checkout) -> None:
    """Python reads them when it starts: a command with others is done by itself."""
    environment = {**checkout.environment, "PYTHONIOENCODING": "ascii:backslashreplace"}
    done = subprocess.run(checkout.command("show", "no.täble"), env=environment, capture_output=True, check=False)
    assert rb"t\xe4ble" in done.stderr


def test_edited_code_counts_at_once(checkout: Checkout) -> None:
    words = checkout.root / "include" / "lake" / "words.py"
    words.write_text(words.read_text() + "\nEDITED = 1\n")
    assert checkout.lake("lineage")[3] is False
    wait.until(lambda: checkout.waits() and checkout.lake("lineage")[3], 30, "the process with the code as it is now")


def test_broken_code_is_waited_for(checkout: Checkout) -> None:
    """Such as in the middle of an edit, or of a checkout."""
    words = checkout.root / "include" / "lake" / "words.py"
    good = words.read_text()
    words.write_text("def (")
    wait.until(lambda: not checkout.waits(), 10, "the end of the old code")
    time.sleep(1)
    words.write_text(good)
    wait.until(lambda: checkout.waits() and checkout.lake("lineage")[3], 30, "the process with the mended code")


def test_another_checkout_is_served_by_nobody(checkout: Checkout) -> None:
    other = {**checkout.environment, "PYTHONPATH": str(settings.ROOT)}
    done = subprocess.run(checkout.command("lineage"), env=other, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "shop.event" not in done.stdout and "rudder.tracks" in done.stdout
