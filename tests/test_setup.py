"""What `make setup` makes sure of: pinned and hashed requirements, a Java, and Delta jars that are what they say."""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from include.lake import settings, spark_server
from include.lake.errors import LakeError

REQUIREMENTS = (settings.ROOT / "requirements.txt").read_text()
LOCK = (settings.ROOT / "requirements.lock").read_text()


@pytest.fixture
def setup() -> ModuleType:
    """scripts/setup.py, which is a program and no module of a package."""
    spec = importlib.util.spec_from_file_location("lake_setup", settings.ROOT / "scripts" / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven repository in a folder, with one small jar in it that is right; the cache of jars is empty."""
    folder = tmp_path / "repository" / "io" / "delta" / "delta-x_2.13" / "1.2.3"
    folder.mkdir(parents=True)
    (folder / "delta-x_2.13-1.2.3.jar").write_bytes(b"right")
    monkeypatch.setattr(spark_server, "JARS", {"delta-x_2.13-1.2.3.jar": hashlib.sha256(b"right").hexdigest()})
    monkeypatch.setenv("LAKE_MAVEN_REPOSITORY", (tmp_path / "repository").as_uri())
    monkeypatch.setenv("LAKE_JARS", str(tmp_path / "jars"))
    return folder / "delta-x_2.13-1.2.3.jar"


def test_the_lock_has_every_pin_of_the_requirements() -> None:
    pins = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)$", REQUIREMENTS, re.M)
    asked = [line for line in REQUIREMENTS.splitlines() if line and not line.startswith("#")]
    assert len(pins) == len(asked) > 5, "every requirement is pinned"
    for name, version in pins:
        assert re.search(rf"^{name}(\[\w+\])?=={re.escape(version)} ", LOCK, re.M), f"{name}: run `make lock`"


def test_the_lock_is_hashed_and_names_no_host_and_no_folder() -> None:
    entries = re.split(r"\n(?=\S)", LOCK)
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert len(packages) > 100
    assert not [entry.splitlines()[0] for entry in packages if "--hash=sha256:" not in entry]
    assert not re.findall(r"https?:|file:|--index|--find-links|@ ", LOCK)
    assert not re.findall(r"[\s=]/\w+", LOCK)


def test_a_jar_is_fetched_once_and_kept(
    setup: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.jars(Path("/no/java"))
    jar = settings.jars() / repository.name
    assert jar.read_bytes() == b"right"
    assert "Fetching" in capsys.readouterr().out
    repository.unlink()
    setup.jars(Path("/no/java"))
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in settings.jars().iterdir()) == [".lock", jar.name]


def test_a_wrong_jar_in_the_cache_is_replaced(
    setup: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.jars().mkdir(parents=True)
    jar = settings.jars() / repository.name
    jar.write_bytes(b"wrong")
    with pytest.raises(LakeError, match=r"has sha256 .*: run `make setup`"):
        spark_server.jar_paths()
    setup.jars(Path("/no/java"))
    assert "removed, fetching it again" in capsys.readouterr().out
    assert spark_server.jar_paths() == [jar]


def test_a_wrong_jar_of_the_repository_is_not_kept(setup: ModuleType, repository: Path) -> None:
    repository.write_bytes(b"wrong")
    with pytest.raises(LakeError, match=r"has sha256 .* nothing was kept"):
        setup.jars(Path("/no/java"))
    assert [path.name for path in settings.jars().iterdir()] == [".lock"]
    repository.unlink()
    with pytest.raises(LakeError, match=r"cannot be fetched .*LAKE_MAVEN_REPOSITORY"):
        setup.jars(Path("/no/java"))
    assert [path.name for path in settings.jars().iterdir()] == [".lock"]


def test_two_setups_at_once_fetch_a_jar_once(
    setup: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [threading.Thread(target=setup.jars, args=(Path("/no/java"),)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert spark_server.jar_paths()
    assert capsys.readouterr().out.count("Fetching") == 1


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)
    return path


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "old" / "bin" / "java", """echo 'openjdk version "1.8.0_402"' >&2""")
    program(tmp_path / "new" / "bin" / "java", """echo 'openjdk version "21.0.2" 2024-01-16' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", str(tmp_path / "new" / "bin"), prepend=os.pathsep)
    assert spark_server.java_home() == tmp_path / "new"


def test_without_a_java_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "old" / "bin" / "java", """echo 'openjdk version "1.8.0_402"' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setattr(spark_server, "JAVA_VERSION", 999)
    with pytest.raises(LakeError, match=r"Java 999 or newer is needed \(.*old/bin/java is Java 8.*JAVA_HOME") as error:
        spark_server.java_home()
    assert "\n" not in str(error.value)


def test_java_is_installed_where_that_is_ours_to_do(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, answers = tmp_path / "log", iter([LakeError("no Java: install it"), tmp_path])

    def java_home() -> Path:
        answer = next(answers)
        if isinstance(answer, LakeError):
            raise answer
        return answer

    program(tmp_path / "bin" / "apt-get", f'echo "$@" >> {log}')
    program(tmp_path / "bin" / "apt-cache", "echo openjdk-11-jre-headless openjdk-21-jre-headless openjdk-17-jdk")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(spark_server, "java_home", java_home)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert setup.java() == tmp_path
    assert log.read_text().splitlines()[1] == "install -y --no-install-recommends openjdk-21-jre-headless"

    answers = iter([LakeError("no Java: install it")])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LakeError, match="no Java: install it"):
        setup.java()


def test_a_failing_command_is_shown_with_its_cure(setup: ModuleType) -> None:
    with pytest.raises(LakeError, match=r"Trying failed: try harder\. Its last words:\nout of luck"):
        setup.run("Trying", [sys.executable, "-c", "print('out of luck'); exit(3)"], "try harder")


def test_uv_is_installed_with_the_hashes_of_the_lock(setup: ModuleType) -> None:
    lines = setup.uv_requirement(LOCK).splitlines()
    assert lines[0].startswith("uv==")
    assert len(lines) > 1 and all("--hash=sha256:" in line for line in lines[1:])


@pytest.mark.skipif(Path(sys.prefix) != settings.ROOT / ".venv", reason="not run by the .venv that setup makes")
def test_a_second_setup_finds_nothing_to_do() -> None:
    done = subprocess.run(["sh", "scripts/setup.sh"], cwd=settings.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_launcher_without_a_setup(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text((settings.ROOT / "lake").read_text())
    (tmp_path / "lake").chmod(0o755)
    done = subprocess.run([tmp_path / "lake", "status"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"lake: run `make setup` first (in {tmp_path})\n"


def test_make_explains_every_target() -> None:
    told = subprocess.run(["make", "help"], cwd=settings.ROOT, capture_output=True, text=True).stdout
    targets = re.search(r"\.PHONY: (.*)", (settings.ROOT / "Makefile").read_text())
    assert targets and len(targets[1].split()) > 5
    for target in targets[1].split():
        assert re.search(rf"^  ([a-z]+ )*{target} ", told, re.M), f"`make help` is silent on {target}"
