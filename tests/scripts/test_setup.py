"""What `make setup` makes sure of: pinned and hashed requirements, Java among them, and jars that are what they say."""

import hashlib
import importlib.util
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from include.lake import settings
from include.lake.engine import toolchain
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
    monkeypatch.setattr(toolchain, "JARS", {"delta-x_2.13-1.2.3.jar": hashlib.sha256(b"right").hexdigest()})
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
    setup.jars()
    jar = settings.jars() / repository.name
    assert jar.read_bytes() == b"right"
    assert "Fetching" in capsys.readouterr().out
    repository.unlink()
    setup.jars()
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in settings.jars().iterdir()) == [".lock", jar.name]


def test_a_wrong_jar_in_the_cache_is_replaced(
    setup: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.jars().mkdir(parents=True)
    jar = settings.jars() / repository.name
    jar.write_bytes(b"wrong")
    with pytest.raises(LakeError, match=r"has sha256 .*: run `make setup`"):
        toolchain.jar_paths()
    setup.jars()
    assert "removed, fetching it again" in capsys.readouterr().out
    assert toolchain.jar_paths() == [jar]


def test_a_wrong_jar_of_the_repository_is_not_kept(setup: ModuleType, repository: Path) -> None:
    repository.write_bytes(b"wrong")
    with pytest.raises(LakeError, match=r"has sha256 .* nothing was kept"):
        setup.jars()
    assert [path.name for path in settings.jars().iterdir()] == [".lock"]
    repository.unlink()
    with pytest.raises(LakeError, match=r"cannot be fetched .*LAKE_MAVEN_REPOSITORY"):
        setup.jars()
    assert [path.name for path in settings.jars().iterdir()] == [".lock"]


def test_two_setups_at_once_fetch_a_jar_once(
    setup: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [threading.Thread(target=setup.jars) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert toolchain.jar_paths()
    assert capsys.readouterr().out.count("Fetching") == 1


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "used"), [("", False), ("1.8.0_402", False), ("17.0.15", True), ("25", True), ("not to be run", False)]
)
def test_java_is_the_users_if_it_is_new_enough_else_that_of_the_wheel(
    version: str, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version == "not to be run":
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    elif version:
        program(tmp_path / "bin" / "java", f"""echo 'openjdk version "{version}"' >&2""")
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    else:
        monkeypatch.delenv("JAVA_HOME", raising=False)
    assert toolchain.java_home() == (tmp_path if used else toolchain.JRE)
    monkeypatch.setenv("JAVA_HOME", str(toolchain.JRE))
    assert toolchain.java_home() == toolchain.JRE, "a process that another one of ours has started"


def test_the_java_of_the_wheel_starts_with_the_options_of_spark() -> None:
    """Spark asks for a module that the wheel has not got, among options that have to arrive as they are."""
    spark_home = importlib.util.find_spec("pyspark").submodule_search_locations[0]
    options = ["--add-modules=jdk.incubator.vector", "-Da=b c", "-XshowSettings:properties", "-version"]
    done = subprocess.run(
        [toolchain.JRE / "bin" / "java", *options], env={"SPARK_HOME": spark_home}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "a = b c" in done.stderr
    assert int(re.search(r'version "(\d+)', done.stderr)[1]) >= toolchain.JAVA_VERSION


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


@pytest.mark.parametrize(
    ("engine", "options", "fetched"),
    [("sail", [], True), ("sail", ["--for-engine"], False), ("spark", ["--for-engine"], True)],
)
def test_sail_needs_no_jars(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, engine: str, options: list[str], fetched: bool
) -> None:
    done = []
    monkeypatch.setenv("LAKE_ENGINE", engine)
    monkeypatch.setattr(sys, "argv", ["setup.py", *options])
    monkeypatch.setattr(setup, "venv", lambda: None)
    monkeypatch.setattr(setup, "jars", lambda: done.append("jars"))
    assert setup.main() == 0
    assert bool(done) is fetched


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
