"""Puts a built ctfw where a machine keeps programs, and takes it away again; `make install` and the .deb call it.

    python packaging/install.py [--destdir D] [--prefix P] [--packaged]     copy everything there
    python packaging/install.py [--destdir D] [--prefix P] --uninstall      remove exactly what that copied

What is installed is the ctfw that this Python imports, compiled already; nothing is compiled or fetched here, and the
machine that runs it needs no compiler and no virtual environment. It lies in PREFIX/lib/ctfw, apart from the machine's
own Python packages, with the packages that it needs; `--packaged` leaves those out that Debian has. The command names
the Python that it was compiled for, and looks at no variable of its caller's environment.

A rule file that is there is never overwritten. /etc/ctfw stays when ctfw is uninstalled, as do the user and its state;
so does /etc/logrotate.d/ctfw where the administrator has changed it.
"""

import argparse
import compileall
import gzip
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent

BUNDLED: Final = ("netfilterqueue", "mypy_extensions")  # not in Debian, or there too old
DEBIAN: Final = ("yaml", "systemd")  # python3-yaml, python3-systemd

# What the pages link to in a checkout, and where that lies beside the installed ones.
LINKS: Final = (
    ("docs/", ""),
    ("../README.md", "README.md"),
    ("../rules.example.yaml", "examples/rules.example.yaml"),
    ("rules.example.yaml", "examples/rules.example.yaml"),
    ("LICENSE", "copyright"),
    ("ctfw/", "../../../lib/ctfw/ctfw/"),
)

ROTATION: Final = "/etc/logrotate.d/ctfw"
LEFT: Final = ("/etc/ctfw", ROTATION, "/var/lib/ctfw", "/var/lib/ctfw-hook")

COMMAND: Final = """\
#!{python} -I
import sys

sys.path.insert(0, "{library}")
from ctfw.cli import main

sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--destdir", default="")
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--packaged", action="store_true")
    parser.add_argument("--uninstall", action="store_true")
    options = parser.parse_args()
    tree = Tree(options.destdir, options.prefix)
    if options.uninstall:
        uninstall(tree)
    else:
        install(tree, options.packaged)


class Tree:
    """Where files go: ``at`` gives the place of a path of the running machine, below DESTDIR. Remembers what it put."""

    def __init__(self, destdir: str, prefix: str) -> None:
        self.destdir = destdir.rstrip("/")
        self.prefix = "/" + prefix.strip("/")
        self.installed: list[str] = []

    @property
    def library(self) -> str:
        return f"{self.prefix}/lib/ctfw"

    @property
    def manifest(self) -> Path:
        return self.at(f"{self.library}/installed")

    @property
    def rotation(self) -> str:
        return f"{self.library}/logrotate"

    def at(self, path: str) -> Path:
        return Path(self.destdir + path)

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        target = self.at(path)
        make_directories(target.parent)
        target.unlink(missing_ok=True)  # a running ctfw keeps the file that it has open
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)
        self.installed.append(path)

    def copy(self, source: Path, path: str) -> None:
        self.write(path, source.read_bytes())


def install(tree: Tree, packaged: bool) -> None:
    if tree.manifest.exists():
        remove_files(tree)
    library(tree, packaged)
    service(tree)
    documentation(tree, packaged)
    settings(tree, packaged)
    if not packaged:
        tree.write(f"{tree.library}/installed", "".join(f"{path}\n" for path in sorted(tree.installed)))
    if not tree.destdir:
        print_next(tree)


def library(tree: Tree, packaged: bool) -> None:
    """The program: the packages, compiled to byte code that is never written anew, and the command."""
    for name in ("ctfw", *BUNDLED, *(() if packaged else DEBIAN)):
        for source, path in files_of(name):
            tree.copy(source, f"{tree.library}/{path}")
    below = tree.at(tree.library)
    compileall.compile_dir(
        below,
        quiet=2,
        stripdir=tree.destdir or None,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        force=True,
    )
    for made in below.rglob("__pycache__"):
        made.chmod(0o755)
        for code in made.iterdir():
            code.chmod(0o644)
            tree.installed.append(f"{tree.library}/{code.relative_to(below)}")
    python = os.path.realpath(sys.executable)
    tree.write(f"{tree.prefix}/bin/ctfw", COMMAND.format(python=python, library=tree.library), 0o755)


def service(tree: Tree) -> None:
    """What systemd and others read: units, user, message catalog, rotation of logs."""
    for unit in [*HERE.glob("systemd/*.service"), *HERE.glob("systemd/*.timer")]:
        text = unit.read_text().replace("/usr/bin/ctfw", f"{tree.prefix}/bin/ctfw")
        tree.write(f"{tree.prefix}/lib/systemd/system/{unit.name}", text)
    tree.copy(HERE / "systemd" / "ctfw.sysusers", f"{tree.prefix}/lib/sysusers.d/ctfw.conf")
    for catalog in HERE.glob("systemd/*.catalog"):
        tree.copy(catalog, f"{tree.prefix}/lib/systemd/catalog/{catalog.name}")
    for folder in ("grafana", "prometheus"):
        for file in sorted((HERE / folder).glob("*")):
            tree.copy(file, f"{tree.prefix}/share/ctfw/{folder}/{file.name}")


def documentation(tree: Tree, packaged: bool) -> None:
    share = f"{tree.prefix}/share"
    tree.write(f"{share}/ctfw/rules.schema.json", output("-m", "ctfw", "schema"))
    made = tree.at(f"{tree.library}/made")
    make_directories(made)
    output(str(HERE / "manual.py"), str(made))
    output(str(HERE / "completion.py"), str(made))
    for manual, folder in (("ctfw.8", "man8"), ("ctfw-rules.5", "man5")):
        text = (made / manual).read_text(encoding="utf-8").replace("/usr/share", share)
        tree.write(f"{share}/man/{folder}/{manual}.gz", gzip.compress(text.encode(), mtime=0))
    tree.copy(made / "ctfw.bash", f"{share}/bash-completion/completions/ctfw")
    tree.copy(made / "ctfw.zsh", f"{share}/zsh/{'vendor-completions' if packaged else 'site-functions'}/_ctfw")
    shutil.rmtree(made)
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8").replace("/usr/share", share)
        for there, here in LINKS:
            text = text.replace(f"]({there}", f"]({here}")
        tree.write(f"{share}/doc/ctfw/{page.name}", text)
    if not packaged:  # Debian has its own file for that
        tree.copy(ROOT / "LICENSE", f"{share}/doc/ctfw/copyright")
    example = (ROOT / "rules.example.yaml").read_text(encoding="utf-8")
    tree.write(f"{share}/doc/ctfw/examples/rules.example.yaml", example.replace("/usr/share", share))


def settings(tree: Tree, packaged: bool) -> None:
    """What is the administrator's, where it is not there yet; nothing that he has changed is overwritten or removed.

    What was put at ROTATION is kept beside the program too, so that a change can be seen (dpkg does that by itself).
    """
    rotation = HERE / "logrotate" / "ctfw"
    is_rotated = tree.at(ROTATION).exists()
    if not is_rotated and not packaged:
        tree.copy(rotation, tree.rotation)
    kept = tree.installed
    tree.installed = []
    if not tree.at("/etc/ctfw").exists():
        make_directories(tree.at("/etc/ctfw/rules.d"))
        tree.at("/etc/ctfw").chmod(0o750)
        tree.at("/etc/ctfw/rules.d").chmod(0o750)
    if not tree.at("/etc/ctfw/rules.yaml").exists():
        text = (HERE / "rules.yaml").read_text().replace("/usr/share", f"{tree.prefix}/share")
        tree.write("/etc/ctfw/rules.yaml", text, 0o640)
    if not is_rotated:
        tree.copy(rotation, ROTATION)
    tree.installed = kept


def uninstall(tree: Tree) -> None:
    if not tree.manifest.exists():
        sys.exit(f"ctfw: nothing was installed in {tree.at(tree.prefix)}")
    if not tree.destdir:
        # The hook goes first: without ctfw nobody would let packets through.
        subprocess.run([f"{tree.prefix}/bin/ctfw", "hook", "remove"], check=True)
        if os.path.isdir("/run/systemd/system"):
            units = ("ctfw.service", "ctfw-early.service", "ctfw-hook.timer")
            subprocess.run(["systemctl", "--quiet", "disable", "--now", *units], check=True)
    remove_files(tree)
    if not tree.destdir:
        left = [path for path in LEFT if os.path.exists(path)]
        print(f"ctfw: still there: {', '.join(left)}, the user ctfw")


def remove_files(tree: Tree) -> None:
    """Removes what the manifest names, and the directories that are empty then; ROTATION if it is unchanged."""
    put, rotation = tree.at(tree.rotation), tree.at(ROTATION)
    if put.exists() and rotation.exists() and put.read_bytes() == rotation.read_bytes():
        rotation.unlink()
    for path in [*tree.manifest.read_text().splitlines(), f"{tree.library}/installed"]:
        target = tree.at(path)
        target.unlink(missing_ok=True)
        for above in target.parents:
            if above == tree.at(tree.prefix) or not above.is_dir() or any(above.iterdir()):
                break
            above.rmdir()


def print_next(tree: Tree) -> None:
    print(f"ctfw: installed in {tree.prefix}. Once, as root:")
    print("    systemd-sysusers ctfw.conf && chgrp -R ctfw /etc/ctfw")
    print("    journalctl --update-catalog && systemctl daemon-reload")
    print("then edit /etc/ctfw/rules.yaml, and: ctfw check && systemctl enable --now ctfw")


def files_of(module: str) -> Iterator[tuple[Path, str]]:
    """(file, its path below the library) of a module or package that this Python can import, without byte code."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        sys.exit(f"ctfw: {module} is not built: make venv")
    origin = Path(spec.origin)
    if origin.name != "__init__.py":
        yield origin, origin.name
        return
    for path in sorted(origin.parent.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield path, f"{module}/{path.relative_to(origin.parent)}"


def make_directories(path: Path) -> None:
    """As mkdir -p, readable for all whatever the umask is."""
    if not path.is_dir():
        make_directories(path.parent)
        path.mkdir()
        path.chmod(0o755)


def output(*arguments: str) -> str:
    """What a Python program prints, run by this Python."""
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
