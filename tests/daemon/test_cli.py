"""The command's manners: exit codes, error lines, and what it never loads."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon.running import COMMAND, command

import ctfw
from ctfw import cli, engine


def test_version_says_which_build_runs() -> None:
    build = "interpreted" if str(engine.__file__).endswith(".py") else "compiled"
    assert command("--version").stdout == f"ctfw {ctfw.__version__} ({build})\n"


@pytest.mark.parametrize("name", ["list", "stats", "status", "reload"])
def test_without_a_daemon_the_exit_code_is_3(name: str, tmp_path: Path) -> None:
    done = command(name, "--socket", str(tmp_path / "control.sock"))
    assert done.returncode == 3
    assert done.stderr.startswith(f"ctfw: {tmp_path}/control.sock: the daemon is not running")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_socket_of_the_environment_is_used(tmp_path: Path) -> None:
    environment = os.environ | {"CTFW_SOCKET": str(tmp_path / "other.sock")}
    done = subprocess.run([*COMMAND, "status"], env=environment, capture_output=True, text=True)
    assert f"{tmp_path}/other.sock" in done.stderr


@pytest.mark.parametrize("greeting", [b"220 ftp ready\n", b"[]\n", b"{}\n", b'{"hello": "ctfw", "protocols": 1}\n'])
def test_who_is_no_ctfw_is_called_so(tmp_path: Path, greeting: bytes) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with subprocess.Popen([*COMMAND, "list", "--socket", path], stderr=subprocess.PIPE, text=True) as process:
            other, _ = listener.accept()
            with other:
                other.sendall(greeting)
                _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said == f"ctfw: {path}: it is not ctfw that answers there\n"


@pytest.mark.parametrize(
    "arguments", [[], ["nothing"], ["run", "--queue", "65536"], ["run", "--queue", "x"], ["list", "-o", "xml"]]
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert command(*arguments).returncode == 2


def test_bad_rules_are_1(tmp_path: Path) -> None:
    done = command("run", "--rules", str(tmp_path / "nothing.yaml"))
    assert done.returncode == 1
    assert "nothing.yaml" in done.stderr


def test_a_reader_that_leaves_is_told_nothing() -> None:
    code = """if True:
        import sys
        from ctfw.cli import main, inspect
        class Endless:
            def __init__(self, path): pass
            def __enter__(self): return self
            def __exit__(self, *error): pass
            def pages(self, *arguments, **more): return iter(["x" * 1000] * 1000)
        inspect.Client = Endless
        sys.exit(main(["list", "--expect"]))
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(10) == 128 + signal.SIGPIPE


def test_ctrl_c_is_130() -> None:
    code = """if True:
        import sys
        from ctfw.cli import main, inspect
        def interrupted(*arguments): raise KeyboardInterrupt
        inspect.Client = interrupted
        sys.exit(main(["list", "--expect"]))
    """
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")


def test_neither_scapy_nor_systemd_is_loaded_before_it_is_needed() -> None:
    code = "import sys, ctfw.daemon, ctfw.cli; ctfw.cli.parser(); print({'scapy', 'systemd'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_command_that_only_asks_the_daemon_does_not_load_it() -> None:
    code = "import sys; from ctfw.cli import main; main(['list', '--socket', '/nowhere']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "ctfw.service.client" in loaded
    assert not {"ctfw.daemon", "ctfw.config.load", "ctfw.tools.replay", "ctfw.workers"} & set(loaded)


def test_each_family_is_known_by_all_its_commands() -> None:
    def commands(made: argparse.ArgumentParser) -> list[str]:
        (found,) = [action for action in made._actions if action.choices and action.metavar == "COMMAND"]
        assert found.choices is not None
        return list(found.choices)

    assert commands(cli.parser()) == list(cli.FAMILIES)
    for name, family in cli.FAMILIES.items():
        assert commands(cli.parser(name)) == [other for other, of in cli.FAMILIES.items() if of == family]
