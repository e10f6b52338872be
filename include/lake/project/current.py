"""The project: all that is declared, as one value. Contracts, SELECTs, checks, their graph, and the task lists.

`project()` gives it as its files are now. It looks at the stamps of the files, reads those that have changed, and
parses what is asked for. So an edit is seen by the next call, and costs one file. Nobody clears a cache.

A call looks at every file: 0.3 ms with 20 files, 10 ms with a thousand. `held()` is for those who ask often, or need
answers that fit together; inside it, a question costs microseconds.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.lake import settings
from include.lake.errors import ContractError, LakeError, UsageError

# These modules parse one file each. Their short names for the current project (`contracts.get`) import this module.
from include.lake.project import contracts, lineage, task_lists, vault
from include.lake.project.kept import Kept, Stamp, digest

if TYPE_CHECKING:
    from include.lake.project.contracts import Contract
    from include.lake.project.lineage import ParsedCheck, Select, TouchedBy
    from include.lake.project.task_lists import TaskList

# The file of a schema with the constants of its SELECTs. No table can have this name.
CONSTANTS = "_constants.yaml"
# A constant in a SELECT is :name. What is in quotes or in a comment is none.
_NAMED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|--[^\n]*|/\*.*?\*/|:(\w+)""", re.DOTALL)
# Path -> stamp of contracts, SELECTs and what may be meant as one; the same of the task lists; both sorted.
Files = tuple[dict[str, Stamp], dict[str, Stamp]]


class Project:
    """What the files say. It never changes: another state of the files is another Project.

    Its texts are read when it is made, so they fit together, however long a build takes. They are parsed when they are
    asked for: a command for one table does not pay for five hundred.
    """

    def __init__(self, files: Files) -> None:
        self.files, self.folders = files, folders()
        sql, lists = files
        self.texts = {path: _kept.text(path, stamp, contracts.read_text) for path, stamp in (sql | lists).items()}
        self._lists = [Path(path) for path in lists]
        # schema.table -> path of its contract, and those that have a SELECT.
        self._paths: dict[str, Path] = {}
        self._selects: set[str] = set()
        # Schema -> the file with the constants of its SELECTs.
        self._constants: dict[str, Path] = {}
        # Table (or path of what is no table) -> what is wrong with its files, whatever is in them.
        self._misplaced: dict[str, str] = {}
        for path in map(Path, sql):
            table = f"{path.parent.name}.{path.stem}"
            if path.name == CONSTANTS and path.parent.parent == settings.SQL:
                self._constants[path.parent.name] = path
            elif path.parent.parent == settings.SQL and path.suffix == ".yml" and table not in self._paths:
                self._misplaced[table] = f"{settings.shown(path)}: a contract ends in .yaml: rename it {path.stem}.yaml"
            elif path.parent.parent != settings.SQL or path.suffix not in (".yaml", ".sql"):
                shown = settings.shown(path)
                self._misplaced[shown] = f"{shown}: is no table: name it include/sql/<schema>/<table>.yaml or .sql"
            elif path.suffix == ".sql":
                self._selects.add(table)
            else:
                self._paths[table] = path
        for table in sorted(self._selects - self._paths.keys()):
            path = settings.SQL / f"{table.replace('.', '/')}.sql"
            no_contract = f"{settings.shown(path)}: has no contract; write {path.stem}.yaml beside it"
            text = self.texts[str(path)]
            self._misplaced.setdefault(table, no_contract if isinstance(text, str) else str(text))
        self._answers: dict[Any, Any] = {}
        self._good: dict[str, Contract] = {}

    def text(self, path: Path) -> str:
        """The text of one of the files; ContractError if it has none."""
        text = self.texts.get(str(path))
        if text is None:  # not of the project, such as a file that a test hands in
            return contracts.read_text(path)
        if isinstance(text, str):
            return text
        raise ContractError(str(text))

    def _once(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, or the LakeError that it raises, made once in the life of this Project."""
        key = kind, name
        if key not in self._answers:
            try:
                self._answers[key] = make()
            except LakeError as error:
                self._answers[key] = error
        answer = self._answers[key]
        if isinstance(answer, LakeError):
            raise type(answer)(str(answer))  # a new one: each raise adds to the traceback of an error
        return answer

    # -- contracts

    @cached_property
    def contracts(self) -> "contracts.Contracts":
        """All good contracts, in the order of their files, and what is wrong with the others."""
        found = contracts.Contracts()
        found.broken.update(self._misplaced)
        for table in self._paths:
            try:
                found[table] = self.contract(table)
            except ContractError as error:
                found.broken[table] = str(error)
        return found

    def contract(self, table: str) -> "Contract":
        """The contract of `table`; ContractError if it is wrong, UsageError with the nearest name if there is none."""
        contract = self._good.get(table)
        if contract is None:  # seldom: it is by far the most frequent question
            contract = self._good[table] = self._once("contract", table, lambda: self._completed(table))
        return contract

    def _completed(self, table: str) -> "Contract":
        parsed = self._parsed(table)
        # A table has a `key`, and a source may have one. What a list builds is no source.
        if parsed.is_source and "key" in parsed.model_fields_set and (listed := self._listed(table)):
            raise ContractError(
                f"{contracts.place(parsed.path, 'key')}: {table} has a `key` and no SELECT, and {listed} lists it: "
                f"write {settings.shown(parsed.select_path)}, or remove it from the list if it is a source"
            )
        return vault.completed(parsed, self._parsed) if parsed.vault else parsed

    def _listed(self, table: str) -> str:
        """File and line of the first task list that names the table; empty if none does."""
        for path in self._lists:
            with suppress(ContractError):  # of a list that cannot be read
                if line := dict(self.literal(path)[1]).get(table):
                    return f"{settings.shown(path)}:{line}"
        return ""

    def _parsed(self, table: str) -> "Contract":
        """What the file of a contract says, without what follows from it."""
        if table in self._paths:
            return self._once("parsed", table, lambda: self._parsed_contract(table, self._paths[table]))
        if table in self._misplaced:
            raise ContractError(self._misplaced[table])
        import difflib

        near = difflib.get_close_matches(str(table), self._paths, n=1)
        hint = f"did you mean {near[0]}?" if near else "./lake lineage lists the tables"
        raise UsageError(f"there is no table {table!r}: {hint}")

    def _parsed_contract(self, table: str, path: Path) -> "Contract":
        text, source = self.text(path), self._file(table)

        def make() -> "Contract":
            plain = _kept.on_disk.value(source, lambda: contracts.plain(contracts.parse(text, path)))
            return contracts.restored(plain, path, table not in self._selects)

        return _kept.parsed("contract", table, source, make)

    def _file(self, table: str) -> str:
        """What a contract is made of: its text, its place, and whether there is a SELECT."""
        path = self._paths[table]
        return self._once("file", table, lambda: digest(self.text(path), str(path), str(table in self._selects)))

    def _source(self, table: str) -> str:
        """The same, with what a contract has from others: a table of a vault from its hubs and its stage."""
        contract = self.contract(table)
        return digest(self._file(table), repr(contract.touched_by)) if contract.vault else self._file(table)

    def select_text(self, table: str) -> str:
        """The SELECT of a table that we build, or of a view: the text of its file, or what its `vault` means."""
        contract = self.contract(table)
        if contract.vault:
            return vault.select(contract, self._parsed)
        values = self.constants(table.partition(".")[0])
        text = self.text(contract.select_path)
        return _NAMED.sub(lambda found: values.get(found[1], found[0]), text) if values else text

    def constants(self, schema: str) -> dict[str, str]:
        """What the SELECTs of a schema may write as :name, in SQL; from include/sql/<schema>/_constants.yaml."""
        path = self._constants.get(schema)
        return self._once("constants", schema, lambda: contracts.constants(self.text(path), path)) if path else {}

    # -- SELECTs

    def select(self, table: str) -> "Select":
        """The SELECT of a table that we build. Its inputs all have contracts, and `reads` names some of them."""
        return self._once("select", table, lambda: self._checked_select(table))

    def _checked_select(self, table: str) -> "Select":
        contract = self.contract(table)
        text = self.select_text(table)
        source = digest(text, self._source(table))

        def make() -> "Select":
            return lineage.restored_select(text, _kept.on_disk.value(source, parse))

        def parse() -> list[Any]:
            from include.lake.project import selects  # it imports sqlglot

            return lineage.plain_select(selects.parse_select(text, contract))

        select = _kept.parsed("select", table, source, make)
        for name in select.inputs:
            if name not in self._paths and name not in self._misplaced:
                raise ContractError(
                    f"{_place_of_input(contract, select, name)}: reads {name}, which has no contract; "
                    f"write include/sql/{name.replace('.', '/')}.yaml"
                )
            if self.contract(name).view:
                raise ContractError(
                    f"{_place_of_input(contract, select, name)}: reads {name}, which is a view: read its inputs instead"
                )
            if self.contract(name).kept_by and contract.is_built and contract.day_column:
                raise ContractError(
                    f"{_place_of_input(contract, select, name)}: reads {name}, which is kept by key, so that any day "
                    f"may change its rows of all days: give {table} `kept_by`, too, or make it a view"
                )
        for name, _ in contract.reads:
            if name not in select.inputs or not self.contract(name).day_column:
                where = contracts.place(contract.path, "reads", name)
                raise ContractError(f"{where}: `reads` names {name}, which is not an input with days")
        return select

    def inputs(self, table: str) -> tuple[str, ...]:
        """The tables that a build of `table` reads, sorted; none for a source."""
        return () if self.contract(table).is_source else self.select(table).inputs

    def checks(self, table: str) -> "tuple[ParsedCheck, ...]":
        """The checks of a table that we build, in the order of its contract; ContractError names the wrong one."""

        def make() -> "tuple[ParsedCheck, ...]":
            contract, inputs = self.contract(table), [self.contract(name) for name in self.inputs(table)]
            if not contract.checks:
                return ()
            source = digest("checks", *map(self._source, [table, *self.inputs(table)]))

            def parse() -> list[list[Any]]:
                from include.lake.project import selects  # it imports sqlglot

                return lineage.plain_checks(selects.parse_checks(contract, inputs))

            return _kept.parsed(
                "checks", table, source, lambda: lineage.restored_checks(_kept.on_disk.value(source, parse))
            )

        return self._once("checks", table, make)

    def touches(self, table: str) -> "dict[str, TouchedBy]":
        """Input with days -> how its rows reach the keys of a table kept by key; none for other tables."""

        def make() -> "dict[str, TouchedBy]":
            contract, inputs = self.contract(table), [self.contract(name) for name in self.inputs(table)]
            if not contract.kept_by:
                return {}
            source = digest("touches", *map(self._source, [table, *self.inputs(table)]))

            def parse() -> list[list[Any]]:
                from include.lake.project import selects  # it imports sqlglot

                return lineage.plain_touches(selects.parse_touches(contract, inputs))

            return _kept.parsed(
                "touches", table, source, lambda: lineage.restored_touches(_kept.on_disk.value(source, parse))
            )

        return self._once("touches", table, make)

    def code_id(self, table: str) -> str:
        """16 hex digits that change when the rows of the table change by its files: SELECT, columns and layout.

        Comments, formatting, the order of fields and what is only checked (`checks_id`) do not change them.
        """

        def make() -> str:
            contract = self.contract(table)
            return _digits(
                self.select(table).meaning(),
                sorted((column.name, column.type) for column in contract.columns),
                contract.partitioned_by,
                contract.reads,
                *([contract.kept_by, [(name, touch.keys, touch.rows) for name, touch in contract.touched_by]]
                  if contract.kept_by else []),
            )  # fmt: skip

        return self._once("code_id", table, make)

    def checks_id(self, table: str) -> str:
        """16 hex digits that change with `code_id` and whatever a build checks: a failed build may be good then."""

        def make() -> str:
            contract = self.contract(table)
            return _digits(
                self.code_id(table),
                sorted((check.meaning(), check.severity) for check in self.checks(table)),
                sorted(column.name for column in contract.columns if not column.nullable),
                sorted(contract.key),
            )

        return self._once("checks_id", table, make)

    # -- the graph

    @property
    def order(self) -> list[str]:
        """All good tables, each after its inputs; always the same order."""
        return self._survey_of_all[0]

    @property
    def broken(self) -> dict[str, str]:
        """Table -> what is wrong, of those that `order` leaves out: in their files, or in what they stand on."""
        return self._survey_of_all[1]

    @cached_property
    def _survey_of_all(self) -> tuple[list[str], dict[str, str]]:
        return self._survey(list(self.contracts), dict(self.contracts.broken))

    def in_order(self, tables: list[str]) -> list[str]:
        """`tables` so that each comes after its inputs; ContractError if one is broken or stands on one that is."""
        order, broken = self._survey(tables, {})
        for name in tables:
            if name in broken:
                raise ContractError(broken[name])
        return [name for name in order if name in set(tables)]

    def upstream(self, tables: list[str]) -> list[str]:
        """`tables` and every built table that they stand on, in order; sources are left out."""
        found: set[str] = set()
        todo = list(tables)
        while todo:
            name = todo.pop()
            if name not in found and self.contract(name).is_built:
                found.add(name)
                todo += self.inputs(name)
        return self.in_order(sorted(found))

    def _survey(self, tables: list[str], broken: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        """The good ones of `tables` and all that they stand on, in order, and table -> what is wrong with it."""
        reads: dict[str, tuple[str, ...]] = {}
        todo = list(tables)
        while todo:
            name = todo.pop()
            if name in reads or name in broken:
                continue
            try:
                reads[name] = self.inputs(name)
                todo += reads[name]
                self.checks(name)
                self.touches(name)
                if self.contract(name).ready_when is not None:
                    from include.lake.project import readiness  # it imports sqlglot

                    readiness.ready_when_of(self.contract(name))
            except LakeError as error:
                broken[name] = str(error)
            except Exception as error:  # a parser that gives up, on nesting of a thousand levels for example
                shown = settings.shown(self.contract(name).select_path)
                broken[name] = f"{shown}: cannot be read: {type(error).__name__}: {error}"
        sorter = TopologicalSorter(reads)
        with suppress(CycleError):  # what is in a circle, or stands on one, is never ready
            sorter.prepare()
        order: list[str] = []
        while ready := sorted(sorter.get_ready()):
            order += ready
            sorter.done(*ready)
        for name in order:
            if above := sorted(broken.keys() & set(reads[name])) if broken and name in reads else []:
                broken.setdefault(name, broken[above[0]])
        for name in sorted(reads.keys() - set(order)):
            broken.setdefault(name, self._circle(name, reads))
        return [name for name in order if name not in broken], broken

    def _circle(self, table: str, reads: dict[str, tuple[str, ...]]) -> str:
        """The circle of SELECTs that `table` is in or stands on."""
        below: dict[str, tuple[str, ...]] = {}
        todo = [table]
        while todo:
            if (name := todo.pop()) not in below:
                below[name] = reads.get(name, ())
                todo += below[name]
        try:
            TopologicalSorter(below).prepare()
        except CycleError as error:
            circle = error.args[1][1:]
            first = circle.index(min(circle))  # the same words, whoever asks
            circle = [*circle[first:], *circle[:first], circle[first]]
            shown = settings.shown(self.contract(circle[0]).select_path)
            return f"{shown}: the SELECTs read each other in a circle: {' -> '.join(circle)}"
        raise AssertionError(f"{table} is in no circle")

    # -- task lists

    def list_paths(self, family: str | None = None) -> list[Path]:
        """The files of the task lists of a family, or of all, sorted."""
        return [path for path in self._lists if family is None or path.parent.parent.name == family]

    def task_list(self, path: Path) -> "TaskList":
        """A task list, checked with the tables that it needs; ContractError names file, line and cure."""
        return self._once("task_list", str(path), lambda: self._checked_list(path))

    def _checked_list(self, path: Path) -> "TaskList":
        task_list, lines = self.literal(path)
        for table, line in lines:
            shown = f"{settings.shown(path)}:{line}"
            try:
                contract = self.contract(table)
            except UsageError as error:
                raise ContractError(f"{shown}: {error}") from None
            if not contract.is_built:
                kind = (
                    "a view: nothing builds it"
                    if contract.view
                    else "a source: nothing builds it, what reads it waits for it"
                )
                select = "" if contract.view else f", or write its SELECT, {settings.shown(contract.select_path)}"
                raise ContractError(f"{shown}: {table} is {kind}; remove it{select}")
            if contract.grain != task_list.grain:
                raise ContractError(
                    f"{shown}: a partition of {table} is a {contract.grain}, a run of this list is of a "
                    f"{task_list.grain}: list it in a DAG with the schedule of its partitions"
                )
        # Their edges, checks and inputs, too: what is wrong in one of these breaks this list.
        self.in_order(task_list.tables)
        return task_list

    def literal(self, path: Path) -> "tuple[TaskList, tuple[tuple[str, int], ...]]":
        """The task list that a file says, and each of its tables with its line, whatever the tables are."""
        text, twins = self.text(path), [twin for twin in self._lists if twin.stem == path.stem and twin != path]
        source = digest(text, *map(str, twins))
        return _kept.parsed("list", str(path), source, lambda: task_lists.parse(text, path, twins))

    @cached_property
    def lists(self) -> "dict[Path, TaskList | LakeError]":
        """Every task list of the project by its path, or what is wrong with it."""
        found: dict[Path, TaskList | LakeError] = {}
        for path in self._lists:
            try:
                found[path] = self.task_list(path)
            except LakeError as error:
                found[path] = error
        return found


def _place_of_input(contract: "Contract", select: "Select", name: str) -> str:
    """File and line where a SELECT reads an input, as errors begin. A SELECT that a contract makes has no lines."""
    if contract.vault:
        return settings.shown(contract.path)
    begins = min(begins for begins, _, table in select.spans if table == name)
    return f"{settings.shown(contract.select_path)}:{select.text.count(chr(10), 0, begins) + 1}"


def _digits(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


_kept = Kept()
_newest: Project | None = None
_held: ContextVar[Project | None] = ContextVar("held_project", default=None)


def project() -> Project:
    """The project as its files are now; inside `held()`, as they were at its beginning."""
    global _newest
    if held := _held.get():
        return held
    files, newest = stamps(), _newest
    if newest is None or newest.files != files or newest.folders != folders():
        _kept.keep_only({*files[0], *files[1]})
        newest = _newest = Project(files)
    elif _kept.young:
        again = Project(files)
        newest = _newest = newest if again.texts == newest.texts else again
    return newest


@contextmanager
def held(save: bool = False) -> Iterator[Project]:
    """One project for all that happens inside, in this thread: an edit meanwhile is for the next one.

    A build, a command, a page and a parse of the DAGs hold it. So they are of one piece, and ask the disk once.
    `save`: what was parsed is kept for the next process. The DAG files want that.
    """
    now = project()
    token = _held.set(now)
    try:
        yield now
    finally:
        _held.reset(token)
        if save:
            _kept.on_disk.save()


@contextmanager
def current_files() -> Iterator[None]:
    """The project as its files are now, also for who holds one: `./lake try --watch` sees each edit."""
    token = _held.set(None)
    try:
        with held():
            yield
    finally:
        _held.reset(token)


def folders() -> tuple[Path, Path]:
    """Where the files are: tests have folders of their own."""
    return settings.SQL, settings.ROOT


def stamps() -> Files:
    """What changes when somebody edits, adds or removes a file of the project."""
    return _stamps(str(settings.SQL), _is_sql), _list_stamps(settings.ROOT / "dags" / "utils" / "dynamic_dag")


def _is_sql(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml", ".sql"))


def _stamps(folder: str, wanted: Callable[[str], bool]) -> dict[str, Stamp]:
    """The files (and folders) of `wanted` names at any depth below a folder, sorted."""
    found: list[tuple[str, Stamp]] = []
    todo = [folder]
    while todo:
        with suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if contracts.is_leftover(entry.name):
                    continue
                with suppress(OSError):  # of a link to itself: whoever reads it says so
                    if entry.is_dir():
                        todo.append(entry.path)
                if wanted(entry.name):
                    found.append((entry.path, _stamp(entry)))
    return dict(sorted(found, key=lambda item: item[0].split(os.sep)))


def _list_stamps(families: Path) -> dict[str, Stamp]:
    found: dict[str, Stamp] = {}
    with suppress(OSError):
        for family in os.listdir(families):
            with suppress(OSError), os.scandir(families / family / "task_list") as entries:
                for entry in entries:
                    name = entry.name
                    if name.endswith(".py") and name != "__init__.py" and not contracts.is_leftover(name):
                        found[entry.path] = _stamp(entry)
    return dict(sorted(found.items()))


def _stamp(entry: "os.DirEntry[str]") -> Stamp:
    try:
        stat = entry.stat()
    except OSError:  # it went away just now, or it is a link to nowhere: whoever reads it says so
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
