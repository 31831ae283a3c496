"""`make install` and `make uninstall`: where everything goes, and that the manual says what the program does."""

import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctfw.cli import parser
from ctfw.config.schema import RULE

PACKAGING = Path(__file__).parents[2] / "packaging"
PATIENCE = 60.0


def script(name: str, *arguments: str, code: int = 0) -> str:
    """Run one of packaging/; what it says."""
    command = [sys.executable, str(PACKAGING / name), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stdout
    return done.stdout


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_what_is_installed_runs_by_itself_and_goes_again(tmp_path: Path) -> None:
    where = ("--destdir", str(tmp_path), "--prefix", "/opt/firewall")
    script("install.py", *where)
    found = files(tmp_path)
    for path in (
        "bin/ctfw",
        "lib/systemd/system/ctfw.service",
        "lib/systemd/system/ctfw-hook.timer",
        "lib/sysusers.d/ctfw.conf",
        "share/man/man8/ctfw.8.gz",
        "share/bash-completion/completions/ctfw",
        "share/zsh/site-functions/_ctfw",
        "share/ctfw/rules.schema.json",
        "share/doc/ctfw/examples/rules.example.yaml",
    ):
        assert f"opt/firewall/{path}" in found
    assert (
        "ExecStart=/opt/firewall/bin/ctfw run\n"
        in (tmp_path / "opt/firewall/lib/systemd/system/ctfw.service").read_text()
    )

    # As the command does, but for where it lies: nothing else of this machine's Python is in reach.
    library = tmp_path / "opt/firewall/lib/ctfw"
    program = f"import sys; sys.path = [{str(library)!r}] + [p for p in sys.path if 'packages' not in p]; "
    program += "from ctfw.cli import main; import netfilterqueue, systemd.journal; sys.exit(main(sys.argv[1:]))"
    rules = tmp_path / "etc/ctfw/rules.yaml"
    command = [sys.executable, "-I", "-c", program]
    assert subprocess.run([*command, "--version"], check=True, capture_output=True).stdout.startswith(b"ctfw ")
    checked = subprocess.run([*command, "check", "--strict", rules], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert files(tmp_path) == found  # no byte code was written anew

    rules.write_text("# the admin's own\n")
    script("install.py", *where)
    script("install.py", *where, "--uninstall")
    assert files(tmp_path) == ["etc/ctfw/rules.yaml"]
    assert rules.read_text() == "# the admin's own\n"
    assert "nothing was installed" in script("install.py", *where, "--uninstall", code=1)


def test_how_logs_are_rotated_is_the_admins_once_he_has_changed_it(tmp_path: Path) -> None:
    where = ("--destdir", str(tmp_path))
    rotation = tmp_path / "etc/logrotate.d/ctfw"
    script("install.py", *where)
    ours = rotation.read_bytes()
    put = tmp_path / "usr/local/lib/ctfw/logrotate"
    put.write_bytes(b"# as an older ctfw had it\n")
    rotation.write_bytes(put.read_bytes())
    script("install.py", *where)
    assert rotation.read_bytes() == ours  # nobody has changed it: the newer one

    rotation.write_text("# the admin's own\n")
    for arguments in ((), ("--uninstall",)):
        script("install.py", *where, *arguments)
        assert rotation.read_text() == "# the admin's own\n"


def test_links_of_the_readme_lead_to_files_that_are_installed(tmp_path: Path) -> None:
    script("install.py", "--destdir", str(tmp_path))
    doc = tmp_path / "usr/local/share/doc/ctfw"
    for page in doc.glob("*.md"):
        for target in re.findall(r"\]\(([^)#`]+)[)#]", page.read_text()):
            assert target == "../bench" or (doc / target).exists(), f"{page.name}: {target}"  # in a checkout only


def test_pages_name_the_places_where_things_were_put(tmp_path: Path) -> None:
    script("install.py", "--destdir", str(tmp_path))
    share = tmp_path / "usr/local/share"
    pages = [gzip.decompress(page.read_bytes()).decode() for page in share.glob("man/*/*.gz")]
    pages += [page.read_text() for page in share.glob("doc/ctfw/*.md")]
    named = {path for page in pages for path in re.findall(r"/usr/(?:local/)?share/(?:doc/)?ctfw(?:[\w./]*\w)?", page)}
    assert "/usr/local/share/ctfw/rules.schema.json" in named and "/usr/local/share/doc/ctfw" in named
    for path in named:
        assert (tmp_path / path[1:]).exists(), path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    script("manual.py", str(directory))
    script("completion.py", str(directory))
    return directory


def test_the_manual_has_every_command_and_every_key(made: Path) -> None:
    page, rules = (made / "ctfw.8").read_text(), (made / "ctfw-rules.5").read_text()
    (commands,) = [action for action in parser()._actions if action.choices and action.metavar == "COMMAND"]
    assert commands.choices is not None
    for name in commands.choices:
        assert f'.SS "ctfw {name}' in page
    for key in RULE.keys:
        assert rf"\fB{key}\fR (" in rules


@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
@pytest.mark.parametrize("page", ["ctfw.8", "ctfw-rules.5"])
def test_roff_has_no_complaint(made: Path, page: str) -> None:
    command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(made / page)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
    assert done.stderr == ""


def test_the_shell_reads_the_completion_and_completes(made: Path) -> None:
    lines = f". {made / 'ctfw.bash'}; COMP_WORDS=(ctfw ho); COMP_CWORD=1; _shtab_ctfw; echo ${{COMPREPLY[@]}}"
    assert subprocess.check_output(["bash", "-c", lines], text=True).strip() == "hook"
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", made / "ctfw.zsh"], check=True)
