"""The shape of the project: who may import whom, and what stands in no file."""

import ast
import re
import subprocess

import pytest

from tests.commands import PROJECT

PACKAGES = ("models", "data", "utils")
PROGRAMS = {path.stem for path in PROJECT.glob("*.py")}
MODULES = [path for package in PACKAGES for path in sorted((PROJECT / package).glob("*.py"))]
# The preparation is a program that lies beside the data it prepares.
LIBRARY = [path for path in MODULES if path.name != "preprocess_tiny_imagenet.py"]


def imported(path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_go_one_way(path):
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & (PROGRAMS | {"argparse", "tests"})
    if path.parent.name != "utils":
        assert not tops & (set(PACKAGES) - {path.parent.name})


def test_no_two_modules_import_each_other():
    def name(path):
        return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")

    imports = {name(path): imported(path) & {name(other) for other in MODULES} for path in MODULES}

    def reachable(start, seen):
        for target in imports[start] - seen:
            seen.add(target)
            reachable(target, seen)
        return seen

    cycles = [module for module in imports if module in reachable(module, set())]
    assert cycles == []


def test_scripts_are_sound():
    for script in [*(PROJECT / "script").rglob("*.sh"), PROJECT / ".ci" / "run"]:
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
        assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_requirements_name_every_library():
    required = {re.split(r"[<>=!]", line)[0] for line in (PROJECT / "requirements.txt").read_text().split()}
    used = {
        name.split(".")[0] for path in [*LIBRARY, PROJECT / "main.py", PROJECT / "report.py"] for name in imported(path)
    } - PROGRAMS
    standard = __import__("sys").stdlib_module_names
    assert used - standard - set(PACKAGES) <= required
