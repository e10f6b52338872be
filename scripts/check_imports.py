"""`make lint`: imports go one way. A room may import the rooms below it, and the engine imports no Airflow.

No module imports a test module: what tests share is in tests/ without `test_`, or a fixture of conftest.py.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# From top to bottom.
FLOORS = ("cli", "backfill", "build", "state", "engine", "storage", "project", "local", "ground")
FLOOR = {room: number for number, room in enumerate(FLOORS)}
LAKE = "include.lake"
# A library of the engine side, and the rooms that may know it: behind the ports stands what can be exchanged.
LIBRARIES = {"deltalake": ("storage",), "pyspark": ("engine", "build")}


def room_of(module: str) -> str:
    """The room of a module of ours. A module outside these folders belongs to the ground."""
    first, *rest = module.removeprefix(LAKE).lstrip(".").split(".")
    return first if first in FLOOR and (rest or (ROOT / "include" / "lake" / first).is_dir()) else "ground"


def room_of_file(path: str) -> str:
    """The room of a file below include/lake/."""
    first = path.removeprefix("include/lake/").split("/")[0]
    return first if first in FLOOR else "ground"


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and module of each import of a file, also inside functions."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            # One dot is the folder of the file, each more the folder above it.
            folder = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join((*folder, *([node.module] if node.module else [])))
            modules += [(node.lineno, f"{module}.{name.name}") for name in node.names]
    return modules


def problem(path: str, module: str) -> str:
    """Why a file must not import a module; empty if it may."""
    if path.startswith("include/") and module.split(".")[0] in ("airflow", "lake_airflow"):
        return "the engine knows no Airflow"
    if re.match(r"tests\.(\w+\.)?test_", module):
        return "no module imports a test module: move what they share to tests/ without test_, or to conftest.py"
    library, own = module.split(".")[0], room_of_file(path)
    if path.startswith("include/lake/") and own not in LIBRARIES.get(library, (own,)):
        return f"{library} is for {' and '.join(LIBRARIES[library])} alone"
    if not module.startswith(LAKE):
        return ""
    room = room_of(module)
    if path.startswith("dags/") and room not in ("project", "ground"):
        return "a DAG file imports the project alone"
    if path.startswith("plugins/") and room == "cli":
        return "the command line is for people"
    if path.startswith("include/lake/") and room != own and FLOOR[room] <= FLOOR[own]:
        return f"{own} stands below {room} or beside it"
    return ""


def main() -> int:
    """Print every import that goes the wrong way, and give the exit code."""
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: imports {module}: {reason}"
        for folder in ("dags", "plugins", "include", "scripts", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, module in imports(path)
        if (reason := problem(str(path.relative_to(ROOT)), module))
    ]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
