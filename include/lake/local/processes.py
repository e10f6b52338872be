"""Processes that outlive their parent: recognise the process that we started, and end it with its children."""

import hashlib
import os
import re
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Process(NamedTuple):
    """A process that was started with start_new_session. A later process with the same pid has another `identity`."""

    pid: int
    identity: str

    @property
    def alive(self) -> bool:
        return identity(self.pid) == self.identity


def identity(pid: int) -> str | None:
    """Boot and start time of a process; None if it is not alive. A zombie counts as not alive.

    The start time is counted from the boot, because a user may set the clock of the machine.
    """
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return f"{_boot()}/{process.create_time() - psutil.boot_time():.2f}"
    return None


def name(pid: int) -> str | None:
    """A name for files of a process, which no later process with the same pid has; None if it is not alive."""
    if found := identity(pid):
        return f"{pid}-{hashlib.sha256(found.encode()).hexdigest()[:12]}"
    return None


def left_over(folder: Path, prefix: str = "") -> list[Path]:
    """What is in a folder under the `name` of a process, after a prefix, and the process is dead."""
    pattern = re.compile(re.escape(prefix) + r"((\d+)(?:-[0-9a-f]{12})?)(?:\W.*)?")
    matches = ((path, pattern.fullmatch(path.name)) for path in folder.glob(f"{prefix}*"))
    return [path for path, match in matches if match and match[1] != name(int(match[2]))]


def of(pid: int) -> Process:
    """The process with this pid, which has just been started."""
    return Process(pid, identity(pid) or "")


def members(process: Process) -> list[int]:
    """The live processes of the session that `process` leads or led.

    We look at the session, because no child leaves it. Airflow's tasks leave the process group of their scheduler, and
    the children of a dead process get another parent.
    """
    if identity(process.pid) not in (None, process.identity) or not process.identity.startswith(_boot() + "/"):
        return []  # the system has given the pid to another process
    pids = []
    for pid in psutil.pids():
        with suppress(OSError):
            if os.getsid(pid) == process.pid and identity(pid):
                pids.append(pid)
    return pids


def end(processes: Iterable[Process], patience: float = 20, how: signal.Signals = signal.SIGTERM) -> None:
    """Signal all processes, and wait until they and their children end. Kill them after `patience` seconds."""
    left = list(processes)
    deadline = time.monotonic() + patience
    for process in left:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, how)
    while True:
        for process in left:
            with suppress(ChildProcessError):  # our own child stays a zombie until we call waitpid
                os.waitpid(process.pid, os.WNOHANG)
        alive = {process: pids for process in left if (pids := members(process))}
        left = list(alive)
        if not left:
            return
        if time.monotonic() > deadline:
            for pid in (pid for pids in alive.values() for pid in pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log without the frames of Java's stack traces, which would hide the error itself."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if not line.startswith(("\tat ", "\t... "))]
    return "\n".join("    " + line for line in lines[-count:])


def _boot() -> str:
    """The id of this boot, because the system reuses pids after a boot. macOS has no such id."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
