"""A model project: the folder with `driftline.toml` and `pipeline.py`, loaded and checked.

Loading runs the module `pipeline.py`, nothing of what it defines. Every mistake is an error that names file and line.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from schemas import fleets
from schemas.errors import ProjectError, SpecificationError
from schemas.inheritance import resolved_text
from schemas.specification import FILE_NAME, Specification, parse

PIPELINE = "pipeline.py"
SUFFIXES = frozenset({".py", ".toml", ".json", ".txt", ".md", ".yaml", ".yml", ".cfg", ".ini"})
"""Files of a project; data lie elsewhere."""
MAX_BYTES = 5_000_000
GIVEN = ("data", "seed", "spec")
"""Names that a step may ask for without a function of that name."""
ROOTS = ("train", "validate")


@dataclass(frozen=True)
class Project:
    """A project that can be trained.

    Parameters
    ----------
    root : Path
        Its folder.
    spec : Specification
    spec_text : str
        `driftline.toml` as written, or with what it extends and the model's name filled in.
    functions : mapping of str to callable
        Functions of `pipeline.py` by name, imported ones included.
    files : mapping of str to bytes
        Path below `root`, with ``/``, to content.
    tree_hash : str
        SHA-256 over the paths and contents of `files`.
    """

    root: Path
    spec: Specification
    spec_text: str
    functions: Mapping[str, Callable[..., Any]]
    files: Mapping[str, bytes]
    tree_hash: str

    @property
    def code_hash(self) -> str:
        """As `tree_hash`, without `driftline.toml`: a changed alarm budget is no change of code."""
        return _hash({name: content for name, content in self.files.items() if name != FILE_NAME})

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Let steps import modules of the project while they run."""
        with _importable(self.root):
            yield


def load_project(directory: Path, *, member: str | None = None) -> Project:
    """Load and check the project in `directory`.

    Parameters
    ----------
    directory : Path
    member : str, optional
        Of a project for many models: the value of its column. The project is then that model's, its specification
        with the name filled in.

    Raises
    ------
    SpecificationError
        `driftline.toml` is missing or wrong.
    ProjectError
        `pipeline.py` is missing, does not compile or import, or its steps do not fit together.
    """
    root = directory.resolve()
    spec, spec_text, files = read_project(root)
    spec_file = root / FILE_NAME
    if member is not None:
        spec_text, spec = fleets.member(spec_text, member, file=str(spec_file))
    elif spec.is_fleet:
        raise SpecificationError(
            f"the project stands for many models, one for each {spec.model.per}",
            where=f"{spec_file} [model.per]",
            remedy="`driftline register DIR --data FILE` makes them; name one of them afterwards",
        )
    # The project as it is stored stands alone: without its defaults, and as one model.
    files[FILE_NAME] = spec_text.encode()
    functions = _functions(root, files)
    from agents.retraining.pipeline import plan

    plan(functions, ROOTS, root / PIPELINE)
    return Project(root, spec, spec_text, functions, files, _hash(files))


def read_project(root: Path) -> tuple[Specification, str, dict[str, bytes]]:
    """Specification, its text with what it inherits, and the files as they would be stored; nothing of it is run.

    Raises
    ------
    SpecificationError
        `driftline.toml` is missing or wrong.
    ProjectError
        No such folder, or its files are too large.
    """
    if not root.is_dir():
        raise ProjectError("no such folder", where=str(root), remedy="`driftline init DIR` writes a first project")
    files = _read(root)
    spec_file = root / FILE_NAME
    if FILE_NAME not in files:
        raise SpecificationError(
            "the file is missing", where=str(spec_file), remedy="`driftline init DIR` writes a first one"
        )
    spec_text = resolved_text(spec_file)
    return parse(spec_text, file=str(spec_file)), spec_text, {**files, FILE_NAME: spec_text.encode()}


def tree_hash(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the paths and contents of a project's files."""
    return _hash(files)


def _read(root: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
            continue
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        total += path.stat().st_size
        if total > MAX_BYTES:
            raise ProjectError(
                f"the files of the project exceed {MAX_BYTES // 1_000_000} MB",
                where=str(path),
                remedy="keep data outside of the project's folder, or in formats such as Parquet and CSV",
            )
        files[inside.as_posix()] = path.read_bytes()
    return files


def _hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name]
        digest.update(f"{len(name)}:{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _functions(root: Path, files: Mapping[str, bytes]) -> dict[str, Callable[..., Any]]:
    from agents.retraining.pipeline import first_line

    path = root / PIPELINE
    if PIPELINE not in files:
        raise ProjectError(
            "the file is missing", where=str(path), remedy="write a function train(data) that returns an estimator"
        )
    code = _compile(path, files[PIPELINE])
    module = ModuleType("pipeline")
    module.__file__ = str(path)
    with _importable(root):
        try:
            exec(code, module.__dict__)  # noqa: S102  the project's code is what the user asked to run
        except Exception as error:
            raise ProjectError(
                f"the module cannot be loaded: {first_line(error)}",
                where=where_of(error, root) or str(path),
                remedy="mend it; `python -c 'import pipeline'` in that folder shows the same error",
            ) from error
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and not name.startswith("__")
    }


def _compile(path: Path, content: bytes) -> CodeType:
    try:
        return compile(content, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ProjectError(
            f"the syntax is wrong: {error.msg}", where=f"{path}:{error.lineno or 1}", remedy="mend that line"
        ) from error
    except ValueError as error:
        raise ProjectError(f"the file is no Python source: {error}", where=str(path)) from error


def where_of(error: BaseException, root: Path) -> str:
    """``file:line`` of the innermost frame of `error` that lies in `root`; empty where there is none."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if Path(frame.f_code.co_filename).is_relative_to(root):
            found = f"{frame.f_code.co_filename}:{line}"
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(root):
        found = f"{error.filename}:{error.lineno or 1}"
    return found


def where_defined(function: Callable[..., Any]) -> str:
    """``file:line`` of a function's definition."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    # Modules of two projects may bear the same name: those of this one are forgotten when the block ends.
    sys.path.insert(0, str(root))
    before = set(sys.modules)
    keep_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = keep_bytecode
        if str(root) in sys.path:
            sys.path.remove(str(root))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(root):
                del sys.modules[name]
