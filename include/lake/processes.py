"""Processes that outlive whoever started them: is it still the one we started, and how to end it with all its children."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_LINUX = (_PROC / "self" / "stat").exists()


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same pid: its start, and the boot; None if it is not alive."""
    with suppress(OSError, subprocess.CalledProcessError):
        if _LINUX:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            boot = (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
            return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
        state, start = subprocess.check_output(["ps", "-o", "state=,lstart=", "-p", str(pid)], text=True).split(None, 1)
        return None if state.startswith("Z") else start.strip()
    return None


def members(pid: int, identity_then: str) -> list[int]:
    """The live processes of the session that the process `pid` led when it had this identity, itself included.

    A session, because tasks of Airflow leave the process group of their scheduler, and a session cannot be left unseen.
    """
    now = identity(pid)
    same_boot = not _LINUX or identity_then.startswith((_PROC / "sys/kernel/random/boot_id").read_text().strip())
    if now not in (None, identity_then) or not same_boot:
        return []  # the pid has been given to somebody else
    if _LINUX:
        pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    else:
        pids = [int(text) for text in subprocess.check_output(["ps", "-axo", "pid="], text=True).split()]
    found = []
    for other in pids:
        with suppress(OSError):
            if os.getsid(other) == pid and identity(other):
                found.append(other)
    return found


def stop(pid: int, identity_then: str, patience: float = 20, how: signal.Signals = signal.SIGTERM) -> None:
    """End a process started with start_new_session, and every child of it; by force after `patience` seconds."""
    deadline = time.monotonic() + patience
    if identity(pid) == identity_then and members(pid, identity_then):
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    while left := members(pid, identity_then):
        _reap(pid)
        if time.monotonic() > deadline:
            for other in left:
                with suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
        time.sleep(0.05)
    _reap(pid)


def _reap(pid: int) -> None:
    """Our own child stays a zombie until it is waited for; somebody else's is none of our business."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
