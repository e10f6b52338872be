"""`make deploy VOLUME=/Volumes/wev_dev/ops/lake`: the code as a wheel, in a Volume of Databricks; prints its path.

The name of the wheel has a hash of its content, and the content no time. So a version is never overwritten, a
deployment of the same code is the same wheel, and LAKE_WHEEL can name an older one again.
Host and token come from DATABRICKS_HOST and DATABRICKS_TOKEN.
"""

import base64
import hashlib
import os
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import requests

from include.lake import settings
from include.lake.errors import LakeError, UsageError
from include.lake.storage import warehouse

# What a run imports and its cluster lacks; the versions are those of requirements.lock.
_NEEDS = ("psutil", "pydantic", "pyyaml", "sqlglot")
# The oldest time that a zip file can have.
_TIME = (1980, 1, 1, 0, 0, 0)
_SECONDS = 120


def main() -> int:
    try:
        volume = os.environ.get("VOLUME") or ""
        if not re.fullmatch(r"/Volumes(/[\w-]+){3,}/?", volume, re.ASCII):
            raise UsageError(f"VOLUME={volume!r} is no folder of a Volume: give one such as /Volumes/wev_dev/ops/lake")
        with tempfile.TemporaryDirectory() as folder:
            print(f"LAKE_WHEEL={upload(build(Path(folder)), volume.rstrip('/'))}")
    except LakeError as error:
        print(f"make deploy: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def files() -> dict[str, bytes]:
    """Path in the wheel -> content: the engine side, the tables and the task lists. No Airflow, no sample data."""
    root, sql = settings.ROOT, settings.SQL
    code = ("include/*.py", "include/lake/**/*.py", "dags/utils/dynamic_dag/*/task_list/*.py")
    paths = {str(path.relative_to(root)): path for pattern in code for path in root.glob(pattern)}
    paths |= {f"include/sql/{path.relative_to(sql)}": path for path in sql.glob("*/*") if path.suffix != ".py"}
    return {name: path.read_bytes() for name, path in sorted(paths.items()) if not path.name.startswith(".")}


def needs() -> list[str]:
    """What pip installs with the wheel."""
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (settings.ROOT / "requirements.lock").read_text(), re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in _NEEDS]


def build(folder: Path) -> Path:
    """The wheel, in a folder."""
    content = files()
    digest = hashlib.sha256(repr((sorted(content.items()), needs())).encode()).hexdigest()[:16]
    version = f"0.0.0+{digest}"
    info = f"lake-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", "Name: lake", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs())]
    content |= {
        f"{info}/METADATA": "\n".join([*metadata, ""]).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: lake\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": b"[console_scripts]\nlake-run = include.lake.cli.entry:main\n",
    }
    record = [f"{name},sha256={_hash(data)},{len(data)}" for name, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"lake-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in content.items():
            wheel.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_DEFLATED)
    return path


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def upload(wheel: Path, volume: str) -> str:
    """Put the wheel into the Volume, unless it is there; its path."""
    host, token = warehouse.of_the_environment()
    path = f"{volume}/{wheel.name}"
    try:
        answer = requests.put(
            f"{warehouse.url(host)}/api/2.0/fs/files{path}", params={"overwrite": "false"}, data=wheel.read_bytes(),
            headers={"Authorization": f"Bearer {token}"}, timeout=_SECONDS,
        )  # fmt: skip
    except requests.RequestException as error:
        raise LakeError(f"{host} cannot be reached: {type(error).__name__}") from None
    if answer.status_code == 409:
        print(f"{path} is there already", file=sys.stderr)
    elif not answer.ok:
        cures = {401: "make a new token", 403: "make a new token, or grant WRITE VOLUME", 404: "create the Volume"}
        cure = cures.get(answer.status_code, "try again")
        raise LakeError(f"{path} cannot be uploaded ({answer.status_code}: {answer.text[:200]}): {cure}")
    return path


if __name__ == "__main__":
    sys.exit(main())
