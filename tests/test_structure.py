"""The shape of the project: who may import whom, who reads command lines, which libraries it needs, and the README's
tables of methods and starts."""

import ast
import re
import sys
from graphlib import TopologicalSorter

import pytest

from tests.commands import PROJECT
from utils.method.methods import METHODS
from utils.method.starts import NONE, STARTS

PROGRAMS = ("main", "report", "calculate_error_barrier", "data.preprocess_tiny_imagenet", "data.prepare_imagenet")
# From the ground up. A module imports from its own room and from lower floors.
FLOORS = (
    ("utils.errors",),
    ("utils.files", "utils.seeding"),
    ("data", "models"),
    *(("utils.method",), ("utils.runs",), ("utils.training",), ("utils.flags",)),
    *(("utils.results",), ("utils.barriers",), ("utils.benchmark", "utils.analysis")),
    PROGRAMS,
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
READ_COMMAND_LINES = (*PROGRAMS, "utils.flags", "utils.benchmark", "utils.analysis", "utils.errors")

FILES = [
    *PROJECT.glob("*.py"),
    *(path for top in ("data", "models", "utils") for path in PROJECT.glob(f"{top}/**/*.py")),
]
MODULES = {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def imported(module: str) -> set[str]:
    """What the module imports; a module of this project by its full name."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= full & MODULES.keys() or {node.module}
    return names


def room_of(module: str) -> str:
    """The longest name in FLOORS that the module's begins with."""
    rooms = [room for room in FLOOR_OF if f"{module}.".startswith(f"{room}.")]
    assert rooms, f"{module} is in no room"
    return max(rooms, key=len)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"utils"}))
def test_imports_go_down(module):
    own = room_of(module)
    for name in imported(module) & MODULES.keys():
        room = room_of(name)
        assert room == own or FLOOR_OF[room] < FLOOR_OF[own], name


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({module: imported(module) & MODULES.keys() for module in MODULES}).prepare()


def test_only_programs_read_command_lines():
    assert [
        module for module in MODULES if "argparse" in imported(module) and room_of(module) not in READ_COMMAND_LINES
    ] == []


def test_requirements_name_every_library():
    required = {re.split(r"[<>=!]", line)[0] for line in (PROJECT / "requirements.txt").read_text().split()}
    used = {name.split(".")[0] for module in MODULES for name in imported(module)}
    own = {name.split(".")[0] for name in MODULES}
    assert used - sys.stdlib_module_names - own <= required | {"PIL", "torchcodec"}  # torchvision's, and optional


def test_the_tables_of_methods_and_starts_are_the_code_s():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    methods = ["| `--method` | what a level does, once its smallest weights are pruned |", "|---|---|"]
    methods += [f"| `{name}` | {method.description} |" for name, method in METHODS.items() if name != "signed_mask"]
    starts = ["| `--start` | begins at | mask | signs | magnitudes | ψ |", "|---|---|---|---|---|---|"]
    for name, start in STARTS.items():
        mask = "" if start.mask == NONE else start.mask
        starts.append(f"| `{name}` | {start.formula} | {mask} | {start.signs} | {start.magnitudes} | {start.norms} |")
    for table in (methods, starts):
        assert "\n".join(table) in readme, "put this table into README.md:\n" + "\n".join(table)
