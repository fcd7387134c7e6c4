"""The packages of `utils` import one way only: each says in its docstring which others it may import."""

import ast
import re

import pytest
from conftest import REPOSITORY

UTILS = REPOSITORY / "utils"
PACKAGES = sorted(path.parent.name for path in UTILS.glob("*/__init__.py"))


def allowed(package: str) -> set[str]:
    """The packages that the docstring of `package` names behind "May import:"."""
    (line,) = re.findall(r"^May import: (.*)\.$", (UTILS / package / "__init__.py").read_text(), re.MULTILINE)
    return set() if line == "no other package of utils" else set(line.split(", "))


def imported(path) -> set[str]:
    """The packages of `utils` that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [f"utils.{one.name}" for one in node.names] if names == ["utils"] else []
        names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("utils.")}
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_says(package):
    for path in sorted((UTILS / package).glob("*.py")):
        assert imported(path) - {package} <= allowed(package), path


def test_no_two_packages_may_import_each_other():
    """What a package may import may itself import no more than that: so there is an order, and no way round."""
    for package in PACKAGES:
        assert package not in allowed(package)
        for lower in allowed(package):
            assert allowed(lower) < allowed(package), (package, lower)


def test_every_module_lies_in_a_package_and_scripts_are_never_imported():
    assert [path.name for path in UTILS.glob("*.py")] == ["__init__.py"]
    scripts = {path.stem for path in REPOSITORY.glob("*.py")}
    for path in sorted(UTILS.rglob("*.py")):
        modules = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [one.name for one in node.names]
                if isinstance(node, ast.Import)
                else []
            )
        }
        assert not modules & scripts, path
