"""Makes the Debian package: python packaging/debian/build.py DIRECTORY; prints the path of the .deb it left there.

What install.py puts into /usr, with Debian's own Python packages left out and the scripts of this directory beside it.
It is made for the Python that it was compiled for, and says so in its dependencies. Nothing is fetched when it is
installed, and no compiler is needed. `make deb` calls it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import ctfw

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
SCRIPTS: Final = ("postinst", "prerm", "postrm")

CONTROL: Final = """\
Package: ctfw
Version: {version}
Architecture: {architecture}
Maintainer: ctfw maintainers <ctfw@localhost>
Installed-Size: {size}
Depends: {depends}
Recommends: nftables, bash-completion
Suggests: conntrack, logrotate
Section: net
Priority: optional
Description: stateful firewall for a gateway, in user space
 The kernel hands ctfw packets by NFQUEUE. It follows every connection with
 tracking of its own, which calls a packet NEW, ESTABLISHED, RELATED or INVALID
 as the kernel's would; the first rule of a YAML file that matches decides.
 .
 It can be asked: which rule did this, why is this packet INVALID, what would
 this packet get, and what would other rules have done to the last minutes of
 one's own traffic.
"""

COPYRIGHT: Final = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ctfw

Files: *
Copyright: the ctfw authors
License: GPL-2+

Files: usr/lib/ctfw/netfilterqueue/*
Copyright: Matthew Fox and the NetfilterQueue authors
License: MIT

Files: usr/lib/ctfw/mypy_extensions.py
Copyright: the mypy authors
License: MIT

License: GPL-2+
 On Debian systems the text is in /usr/share/common-licenses/GPL-2.

License: MIT
 Permission is hereby granted, free of charge, to any person obtaining a copy of
 this software and associated documentation files (the "Software"), to deal in
 the Software without restriction, including without limitation the rights to
 use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
 the Software, and to permit persons to whom the Software is furnished to do so,
 subject to the following conditions: The above copyright notice and this
 permission notice shall be included in all copies or substantial portions of the
 Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND.
"""


def main(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ctfw-deb-") as work:
        tree = Path(work) / "tree"
        tree.mkdir(mode=0o755)
        install = [sys.executable, str(ROOT / "packaging" / "install.py"), "--destdir", str(tree), "--prefix", "/usr"]
        subprocess.run([*install, "--packaged"], check=True)
        (tree / "usr/share/doc/ctfw/copyright").write_text(COPYRIGHT)
        strip(tree)
        control(tree)
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"ctfw_{ctfw.__version__}_{architecture()}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, target], check=True, stdout=sys.stderr)
    print(target)


def strip(tree: Path) -> None:
    """Takes out of the compiled modules what only a debugger reads."""
    subprocess.run(["strip", "--strip-unneeded", *tree.rglob("*.so")], check=True)


def control(tree: Path) -> None:
    """The package's own description of itself, below DEBIAN."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    target = tree / "DEBIAN"
    target.mkdir(mode=0o755)
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files)
    write(target / "md5sums", sums)
    settings = [path for path in files if path.is_relative_to(tree / "etc")]
    write(target / "conffiles", "".join(f"/{path.relative_to(tree)}\n" for path in settings))
    size = sum(path.stat().st_size + 1023 for path in files) // 1024
    fields = {"version": ctfw.__version__, "architecture": architecture(), "size": size, "depends": depends()}
    write(target / "control", CONTROL.format(**fields))
    for script in SCRIPTS:
        write(target / script, (HERE / script).read_text(), 0o755)


def depends() -> str:
    """What the compiled modules were made for, and what the program calls."""
    major, minor = sys.version_info[:2]
    libc = os.confstr("CS_GNU_LIBC_VERSION") or "glibc 2"
    return ", ".join(
        (
            f"libc6 (>= {libc.split()[1]})",
            "libnetfilter-queue1",
            f"python3 (>= {major}.{minor})",
            f"python3 (<< {major}.{minor + 1})",
            "python3-yaml",
            "python3-systemd",
            "systemd",
            "iproute2",
            "iptables | nftables",
        )
    )


def architecture() -> str:
    return subprocess.run(
        ["dpkg", "--print-architecture"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


if __name__ == "__main__":
    if not shutil.which("dpkg-deb"):
        sys.exit("ctfw: dpkg-deb is not here: a .deb is made on Debian")
    if not os.path.realpath(sys.executable).startswith("/usr/bin/"):
        sys.exit("ctfw: compiled for another Python than Debian's own: make clean, then make deb without PYTHON=")
    main(Path(sys.argv[1]))
