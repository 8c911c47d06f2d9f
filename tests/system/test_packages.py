"""What is installed to run the server is all that it needs, and the tests add to it without changing it."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

from tests.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = sorted(path for folder in ("server", "demo") for path in (ROOT / folder).rglob("*.py"))


def locked(name: str) -> dict[str, set[str]]:
    """Versions by package. There are several where they depend on the version of Python."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / name).read_text("utf-8"), re.MULTILINE):
        found.setdefault(package, set()).add(version)
    return found


def imported(path: Path) -> set[str]:
    """Packages, wherever in the file they are imported."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_the_server_and_the_demo_import_nothing_that_only_tests_need() -> None:
    running, sources = locked("requirements.lock"), importlib.metadata.packages_distributions()
    names = set().union(*map(imported, FILES)) - sys.stdlib_module_names - {"server", "demo"}
    names.remove("ray")  # the extra `cluster`, which is for several machines
    for name in names:
        distributions = {re.sub(r"[-_.]+", "-", each).lower() for each in sources.get(name, [name])}
        assert distributions & running.keys(), name


def test_the_lock_of_the_tests_has_no_other_version_of_what_the_server_runs_on() -> None:
    running, tests = locked("requirements.lock"), locked("tests/requirements.lock")
    assert {"pytest", "schemathesis", "wavespeed"} <= tests.keys() - running.keys()
    assert all(tests[name] <= running[name] for name in running.keys() & tests.keys())


def test_one_extra_has_all_that_one_machine_can_use_and_each_is_documented() -> None:
    """docs/installing.md lists them; `make venv` and the image install `all`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")
    assert everything == f"upscale-server[{','.join(name for name in extras if name != 'cluster')}]"
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "installing.md").read_text("utf-8"), re.MULTILINE)
    assert set(listed) == {*extras, "all"}
    for name in ("Makefile", "Dockerfile.cuda"):
        assert "--extra all " in (ROOT / name).read_text("utf-8")
