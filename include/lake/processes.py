"""Processes that outlive whoever started them: is it still the one we started, and how to end it with its children."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_LINUX = (_PROC / "self" / "stat").exists()


class Process(NamedTuple):
    """A process that was started with start_new_session. `identity` tells it from a later one with the same pid."""

    pid: int
    identity: str

    @property
    def alive(self) -> bool:
        return identity(self.pid) == self.identity


def identity(pid: int) -> str | None:
    """The start of a process, and the boot of its machine; None if it is not alive."""
    with suppress(OSError, subprocess.CalledProcessError):
        if _LINUX:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            return None if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"
        state, start = subprocess.check_output(["ps", "-o", "state=,lstart=", "-p", str(pid)], text=True).split(None, 1)
        return None if state.startswith("Z") else start.strip()
    return None


def of(pid: int) -> Process:
    """The process with this pid, which has just been started."""
    return Process(pid, identity(pid) or "")


def members(process: Process) -> list[int]:
    """The live processes of the session that `process` leads or led.

    The session, because tasks of Airflow leave the process group of their scheduler, and sessions they do not leave.
    """
    if identity(process.pid) not in (None, process.identity) or (
        _LINUX and not process.identity.startswith(_boot() + "/")
    ):
        return []  # the pid has been given to somebody else
    if _LINUX:
        pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    else:
        pids = [int(text) for text in subprocess.check_output(["ps", "-axo", "pid="], text=True).split()]
    found = []
    for pid in pids:
        with suppress(OSError):
            if os.getsid(pid) == process.pid and identity(pid):
                found.append(pid)
    return found


def end(processes: Iterable[Process], patience: float = 20, how: signal.Signals = signal.SIGTERM) -> None:
    """Ask processes to end, all at once, and wait until they and all their children have; force after `patience`."""
    left = list(processes)
    deadline = time.monotonic() + patience
    for process in left:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, how)
    while True:
        for process in left:
            with suppress(ChildProcessError):  # our own child stays a zombie until it is waited for
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
    """The end of a log, without the frames of Java's stack traces, which push what happened out of sight."""
    text = log.read_text(errors="replace") if log.exists() else ""
    kept = [line for line in text.splitlines() if not line.startswith(("\tat ", "\t... "))]
    return "\n".join("    " + line for line in kept[-count:])


def _boot() -> str:
    return (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
