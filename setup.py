"""Builds ctfw; everything about the package but the compilation is in pyproject.toml.

The hot modules (the way of one packet) are compiled by mypyc as one group: a call between compiled modules
costs a fraction of one that crosses from interpreted code, so leaves alone would gain little. Each module
becomes a small loader beside its source, and the code of all of them is one shared extension,
ctfw/hot__mypyc.*.so. It is named into the package on purpose (mypyc's own choice is a hashed name on top of
site-packages), so that `pip uninstall`, and whoever packages the directory, covers it without knowing of it.

CTFW_PURE=1 leaves the modules as they are; both builds behave the same.

The build never writes into the source tree: an old build/ directory there would carry modules into the wheel
that the sources no longer have, and a read-only checkout, or somebody else's, can be installed too.
"""

import os
import sys
import tempfile
from glob import glob

from setuptools import setup

HOT = (
    "ctfw/reason.py",
    "ctfw/packet.py",
    "ctfw/checksum.py",
    "ctfw/conntrack/**/*.py",
    "ctfw/ruleset/**/*.py",
    "ctfw/fragments.py",
    "ctfw/engine.py",
    "ctfw/receive.py",
    "ctfw/nfqueue.py",
    "ctfw/loop.py",
)
# Text for people, and package files that only import names: nothing a packet passes through.
COLD = {"ctfw/conntrack/record.py", *glob("ctfw/**/__init__.py", recursive=True)}

# The build must not depend on what else is installed (an older ctfw, types of NetfilterQueue), nor fail where
# only the project's own stricter checks would.
MYPY = ("--config-file=", "--no-site-packages", "--ignore-missing-imports")

# Nobody outside calls the compiled functions by name. Said so, the compiler may inline one into another.
CFLAGS = ["-fvisibility=hidden"]

# pip also runs this file to ask for metadata; only these commands want the extension.
BUILDING = {"bdist_wheel", "build", "build_ext", "install"} & set(sys.argv)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ctfw-build-") as work:
        extensions = []
        if BUILDING and os.environ.get("CTFW_PURE", "0") in ("", "0"):
            from mypyc.build import mypycify

            hot = sorted({path for pattern in HOT for path in glob(pattern, recursive=True)} - COLD)
            options = [*MYPY, f"--cache-dir={work}/mypy"]
            extensions = mypycify([*options, *hot], opt_level="3", group_name="ctfw.hot", target_dir=work)
            for extension in extensions:
                extension.extra_compile_args.extend(CFLAGS)
        outside = {"build": {"build_base": work}, "egg_info": {"egg_base": work}}
        setup(ext_modules=extensions, options=outside)


main()
