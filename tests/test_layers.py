"""The arrows of the architecture page hold: who may import whom, and what the packet's way may import at all.

The page itself (the docstring of ``ctfw``) is read, so that it cannot differ from what is tested: a module imports only
what stands above it in the list, or beside it in the same row. The sources are those that lie beside the installed
build; every import in them counts, wherever it stands.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ctfw

PACKAGE = Path(ctfw.__file__).parent

# What packets pass through, and what among it only prints.
HOT_PARTS = {
    "reason",
    "packet",
    "checksum",
    "packet_text",
    "conntrack",
    "ruleset",
    "fragments",
    "engine",
    "receive",
    "nfqueue",
    "loop",
}
COLD = {"ctfw.packet_text", "ctfw.conntrack.record"}

# What a hot module may import from elsewhere: nothing that reads a clock, a file or the network, or that parses text.
ANYWHERE = {"bisect", "collections.abc", "typing", "mypy_extensions"}
SOMEWHERE = {
    "ctfw.ruleset.schedule": {"datetime", "time"},  # what a second that it is told is called on the wall's clock
    "ctfw.conntrack.image": {"struct"},  # bytes are what it makes
    "ctfw.nfqueue": {"errno", "os", "socket", "sys", "time"},  # the shell: it reads the queue and the clock
    "ctfw.receive": {"ctypes", "errno", "os", "socket", "struct"},  # the shell, too: the system call
    "ctfw.loop": {"gc", "select", "time"},  # the shell's innermost: it waits
}

# Only these import what is slow to load or to use.
KEEPERS = {"yaml": "config", "scapy": "tools"}


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package by its name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), str(path))
    return found


def rows() -> list[list[str]]:
    """The page's list: each row's names, the first one being what the row is about."""
    table = re.findall(r"^``.*$", ctfw.__doc__ or "", re.MULTILINE)
    names = [[name.rstrip("/") for name in re.findall(r"``([a-z_]+/?)``", row)] for row in table]
    parts = {module.split(".")[1] for module in sources() if "." in module}
    return [[name for name in row if name in parts] for row in names]


def height(module: str) -> int:
    """The row of a module; a package's modules stand in the package's row."""
    part = module.split(".")[1]
    found = [number for number, row in enumerate(rows()) if part in row]
    assert len(found) == 1, f"{module} is not once on the page"
    return found[0]


def imported(module: str) -> Iterator[str]:
    """What a module imports, absolute: the modules of ctfw, and the names that others are imported by."""
    is_package = (PACKAGE.parent / module.replace(".", "/")).is_dir()
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in sources() else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0]
            if isinstance(name, ast.JoinedStr):  # one of those that begin like this
                start = ast.literal_eval(name.values[0])
                yield from (source for source in sources() if source.startswith(start))
            else:
                yield ast.literal_eval(name)


def own(module: str) -> list[str]:
    return [name for name in imported(module) if name.startswith("ctfw.")]


def foreign(module: str) -> list[str]:
    return [name for name in imported(module) if name.split(".")[0] != "ctfw"]


MODULES = [name for name in sources() if name not in ("ctfw", "ctfw.__main__")]
HOT = [name for name in MODULES if name.split(".")[1] in HOT_PARTS and name not in COLD]


def test_every_module_is_on_the_page() -> None:
    for module in MODULES:
        height(module)
    assert {name for row in rows() for name in row} >= HOT_PARTS


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_that_stands_below_it(module: str) -> None:
    assert [name for name in own(module) if height(name) > height(module)] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    def walk(module: str, way: list[str]) -> None:
        assert module not in way, " imports ".join([*way[way.index(module) :], module])
        if module not in done:
            for name in own(module):
                if not module.startswith(name + "."):  # a package that its own module names
                    walk(name, [*way, module])
            done.add(module)

    done: set[str] = set()
    for module in MODULES:
        walk(module, [])


@pytest.mark.parametrize(("library", "keeper"), KEEPERS.items())
def test_a_slow_library_has_one_importer(library: str, keeper: str) -> None:
    importers = {module.split(".")[1] for module in MODULES if any(n.split(".")[0] == library for n in foreign(module))}
    assert importers <= {keeper}


@pytest.mark.parametrize("module", HOT)
def test_the_packets_way_imports_little(module: str) -> None:
    assert set(foreign(module)) <= ANYWHERE | SOMEWHERE.get(module, set())
    assert COLD.isdisjoint(own(module))


def test_the_exceptions_are_needed() -> None:
    for module, names in SOMEWHERE.items():
        assert module not in HOT or names <= set(foreign(module)), module


def test_the_page_itself_imports_nothing() -> None:
    assert list(imported("ctfw")) == []


def test_the_daemons_process_loads_no_scapy() -> None:
    program = "import sys, ctfw.cli, ctfw.daemon; print('scapy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-P", "-c", program], text=True) == "False\n"


@pytest.mark.parametrize("package", ["conntrack", "service", "tools", "workers"])
def test_the_page_of_a_package_names_what_is_in_it(package: str) -> None:
    inside = {name.removeprefix(f"ctfw.{package}.") for name in sources() if name.startswith(f"ctfw.{package}.")}
    page = ast.get_docstring(sources()[f"ctfw.{package}"]) or ""
    words = set(re.findall(r"[a-z0-9_]+", page))
    assert sorted({name.partition(".")[0] for name in inside} - words) == []
