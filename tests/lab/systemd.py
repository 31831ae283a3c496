"""A machine with a real systemd, in namespaces, booted in about a second and gone with the test.

systemd runs as PID 1 of a new pid namespace, in the network namespace that the test gives it (the gateway of a
lab.net.Network, say, so that packets can be sent through it), on an overlay of the host's root: all programs of the
host are there, nothing that is written reaches it. None of the host's services run; /etc/systemd/system is empty but
for what the test puts there.

    with Network() as net, System(net.gateway, files={"/etc/systemd/system/x.service": UNIT}) as system:
        system.run("systemctl", "start", "x")
        system.put("/etc/x.conf", "...")

What comes in: `files` (a path inside -> a text, or a Path of the host, file or directory, to be copied) before the
boot, put() after it; `shows` (a path inside -> one of the host, read-only) and `keeps` (the same, writable: what shall
outlive a boot); `prepare` is a shell script that runs inside before systemd does, as an installer would. /tmp, /run and
other file systems of the host are not inside unless shown.

It ends with the test process at the latest, whatever ends that. Root's own rights over the clock, the modules and the
kernel's log are missing inside. It is no sandbox for a program that one does not trust.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import ctfw
from lab.net import Namespace

SYSTEMD: Final = "/lib/systemd/systemd"
INIT: Final = Path(__file__).parent / "systemd_init.sh"
PATIENCE: Final = 30.0
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What reaches past the namespaces. nsenter alone would leave a command inside all that root has.
_BOUND: Final = (
    "setpriv",
    "--inh-caps=-all",
    "--bounding-set=-sys_module,-sys_rawio,-sys_time,-syslog,-audit_control,-audit_read,-mac_admin,-mac_override,"
    "-wake_alarm,-block_suspend",
)
_CGROUPS: Final = "ctfw-bed-"
_POWEROFF: Final = signal.SIGRTMIN + 4  # systemd(1): start poweroff.target; needs no bus


def why_no_systemd() -> str:
    """Why no systemd can be booted here, in words; "" when it can."""
    if os.getuid() != 0 or _is_in_user_namespace():
        return "a systemd of our own needs root"
    if not os.path.exists(SYSTEMD):
        return f"no {SYSTEMD}"
    missing = [name for name in ("unshare", "nsenter", "setpriv", "pivot_root") if not shutil.which(name, path=PATH)]
    if missing:
        return f"programs missing: {' '.join(missing)}"
    if "\tcgroup2\n" not in Path("/proc/filesystems").read_text():
        return "this kernel has no cgroup2"
    return ""


class System:
    """A booted systemd. `pid` is its PID 1 as the host counts, `state` what it says of itself: running or degraded."""

    def __init__(
        self,
        namespace: Namespace,
        *,
        files: Mapping[str, str | Path] | None = None,
        shows: Mapping[str, Path] | None = None,
        keeps: Mapping[str, Path] | None = None,
        prepare: str = "",
        target: str = "multi-user.target",
    ) -> None:
        self.namespace = namespace
        self.stage = Path(tempfile.mkdtemp(prefix="ctfw-bed-"))
        self._mounted = "" if _cgroup2() else _mount_cgroup2(self.stage)
        self.cgroup = _make_cgroup(self.stage.name)
        self._files = self.stage / "files"
        self._files.mkdir()
        (self.stage / "root").mkdir()
        for path, content in (files or {}).items():
            _write(self._files, path, content)
        binds = [("ro", source, inside) for inside, source in (shows or {}).items()]
        binds += [("rw", source, inside) for inside, source in (keeps or {}).items()]
        (self.stage / "binds").write_text("".join(f"{mode} {source} {inside}\n" for mode, source, inside in binds))
        if prepare:
            (self.stage / "prepare").write_text(prepare)
        self._output = open(self.stage / "output", "w+")  # noqa: SIM115 - closed by stop()
        self._init = self._launch(target)
        self.pid = 0
        self.state = ""
        try:
            self._await()
        except BaseException:
            self.stop()
            raise

    def _launch(self, target: str) -> "subprocess.Popen[str]":
        new = ("--pid", "--fork", "--kill-child=KILL", "--mount", "--uts", "--ipc", "--cgroup", "--propagation=private")
        systemd = (*_BOUND, SYSTEMD, "--system", f"--unit={target}", "--log-target=journal", "--show-status=no")
        inside = ("unshare", *new, "sh", str(INIT), str(self.stage), *systemd)
        # The shell enters the cgroup first: it is the root of the new cgroup namespace.
        join = f'echo $$ >{self.cgroup}/cgroup.procs && exec "$@"'
        return self.namespace.start(["sh", "-c", join, "sh", *inside], stdout=self._output, stderr=self._output)

    def _await(self) -> None:
        number = self.stage / "pid"
        self._until(number.exists)
        self.pid = int(number.read_text())
        # At the end of the name: in a chroot it begins with where that is.
        self._until(lambda: os.readlink(f"/proc/{self.pid}/exe").endswith(os.path.realpath(SYSTEMD)))
        self._until(self.path("/run/systemd/private").is_socket)
        self.state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        if self.state not in ("running", "degraded"):
            raise RuntimeError(f"systemd is {self.state or 'silent'}: {self.journal('-p', 'warning')}")

    def _until(self, condition: Any) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if self._init.poll() is not None or time.monotonic() > end:
                self._output.seek(0)
                raise RuntimeError(f"systemd did not come up: {self._output.read()}")
            time.sleep(0.005)

    def run(
        self, *command: str, check: bool = True, timeout: float = PATIENCE, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, as root, to its end. Raises CalledProcessError with what it said in `stderr`."""
        return subprocess.run(
            self._enter(command), capture_output=True, text=True, check=check, timeout=timeout, **options
        )

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Start a command inside, as root; it ends with this process at the latest."""
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self._enter(command)], text=True, **options)

    def path(self, inside: str) -> Path:
        """The host's path of a file inside. Not for absolute links inside: those would lead into the host."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def put(self, path: str, content: str | Path) -> None:
        """Write a file inside, or copy a file or directory of the host. After a unit: `systemctl daemon-reload`."""
        _write(self.path("/"), path, content)

    def journal(self, *options: str) -> str:
        """What the journal says, messages alone unless `options` of journalctl say otherwise."""
        self.run("journalctl", "--sync", check=False)
        return self.run("journalctl", "--no-pager", "-o", "cat", *options, check=False).stdout

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as systemctl show prints it."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def poweroff(self) -> None:
        """Shut down in order, every unit stopped, and wait for the end."""
        os.kill(self.pid, _POWEROFF)
        self._init.wait(PATIENCE)

    def stop(self) -> None:
        """End it at once if it runs, and remove what it left on the host. May be called again."""
        if self._init.poll() is None:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)  # its pid namespace goes with it
            else:
                self._init.kill()
            self._init.wait(PATIENCE)
        self._output.close()
        _remove_cgroup(self.cgroup)
        if self._mounted:
            subprocess.run(["umount", self._mounted], check=True)
            self._mounted = ""
        shutil.rmtree(self.stage, ignore_errors=True)

    def __enter__(self) -> "System":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _enter(self, command: Sequence[str]) -> list[str]:
        into = ("nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--")
        clean = ("env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=cat")
        return [*into, *_BOUND, *clean, *command]


def this_ctfw() -> tuple[dict[str, str | Path], dict[str, Path]]:
    """What a bed must be given (`files`, `shows`) to have /usr/bin/ctfw: the build that the tests run against."""
    packages = {
        str(Path(ctfw.__file__).parent.parent): "/opt/ctfw/build",
        sysconfig.get_path("purelib"): "/opt/ctfw/site",
    }
    python = f"PYTHONPATH={':'.join(packages.values())} exec {os.path.realpath(sys.executable)} -P -s -B -m ctfw"
    return {"/usr/bin/ctfw": f'#!/bin/sh\n{python} "$@"\n'}, {to: Path(source) for source, to in packages.items()}


def _write(root: Path, path: str, content: str | Path) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        target.write_text(content)
        if content.startswith("#!"):
            target.chmod(0o755)
    elif content.is_dir():
        shutil.copytree(content, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(content, target)


def _is_in_user_namespace() -> bool:
    with open("/proc/self/uid_map") as mapping:
        return mapping.read().split() != ["0", "0", "4294967295"]


def _cgroup2() -> str:
    """Where the cgroup2 hierarchy is mounted: the whole of it, or beside the older ones; "" for nowhere."""
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, place, kind, *_ = line.split()
            if kind == "cgroup2":
                return place
    return ""


def _mount_cgroup2(stage: Path) -> str:
    """Where there is none: in a chroot, say."""
    place = stage / "cgroup"
    place.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(place)], check=True)
    return str(place)


def _make_cgroup(name: str) -> Path:
    """A cgroup for one bed. Those of test processes that are no more go first: nobody else would remove them."""
    top = Path(_cgroup2())
    for left in top.glob(f"{_CGROUPS}*"):
        if not os.path.exists(f"/proc/{left.name.removeprefix(_CGROUPS).partition('-')[0]}"):
            _remove_cgroup(left)
    cgroup = top / f"{_CGROUPS}{os.getpid()}-{name}"
    cgroup.mkdir()
    return cgroup


def _remove_cgroup(cgroup: Path) -> None:
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")
    end = time.monotonic() + PATIENCE
    while cgroup.exists() and time.monotonic() < end:  # the kernel frees the killed a moment later
        for place, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(place)
        time.sleep(0.002)
