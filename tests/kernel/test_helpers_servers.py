"""Real servers and clients of Debian through a gateway whose only connection tracking is ours.

vsftpd with Python's ftplib, ngircd with two clients that know just enough IRC, in.tftpd with tftp, sipp with sipp. The
rules let the LAN reach the services themselves and nothing else: whatever else gets through is RELATED to them.
"""

import ftplib
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.net import CLIENT, CLIENT6, ENVIRONMENT, SERVER, SERVER6, Namespace, Network

pytestmark = [pytest.mark.kernel, pytest.mark.server]

PATIENCE = 30.0
SILENCE = 0.7
FILE = bytes(range(256)) * 512
CTFW = (sys.executable, "-P", "-m", "ctfw")
RULES = """
version: 1
conntrack: {helpers: {HELPERS}}
sets: {services: [21, 69, 5060, 6667]}
policy: {input: accept, forward: drop, output: accept}
rules:
  - {name: known, state: ESTABLISHED, verdict: accept}
  - {name: announced, state: RELATED, verdict: accept}
  - {name: neighbours, state: UNTRACKED, verdict: accept}
  - {name: services, chain: forward, in: lan0, state: NEW, proto: [tcp, udp], dport: $services, verdict: accept}
"""
HELPERS = "{ftp: 21, irc: 6667, tftp: 69, sip: 5060}"


def program(name: str, package: str) -> str:
    """The path of a program; the test is skipped when its package is not installed."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if not found:
        pytest.skip(f"{name} of the package {package} is missing: `make test` as root fetches it")
    return found


def needs_users(name: str) -> None:
    """Skips the test where there is nobody but root to become: in a user namespace."""
    if sum(int(line.split()[2]) for line in Path("/proc/self/gid_map").read_text().splitlines()) < 65535:
        pytest.skip(f"{name} gives up root, and this user namespace has no other user")


class Lab:
    """A Network whose gateway runs `ctfw run`."""

    def __init__(self, net: Network, directory: Path) -> None:
        self.net = net
        self.directory = directory
        self._running: list[subprocess.Popen[str]] = []

    def start(self, host: Namespace, command: list[str], is_up: Callable[[], bool]) -> None:
        """Starts a program in ``host`` and waits until it is up."""
        log = self.directory / f"{Path(command[0]).name}.{len(self._running)}.log"
        with log.open("w") as file:
            process = host.start(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=str(self.directory))
        self._running.append(process)
        wait_for(lambda: process.poll() is not None or is_up(), lambda: f"{command}: {log.read_text()}")
        assert process.poll() is None, f"{command}: {log.read_text()}"

    def serve(self, command: list[str], port: int, kind: str = "tcp") -> None:
        """Starts a server and waits until it listens on ``port``."""
        self.start(self.net.server, command, lambda: listens(self.net.server, port, kind))

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def rule(self, name: str) -> int:
        """How many packets the rule has decided on."""
        asked = [*CTFW, "stats", "-o", "json", "--socket", str(self.directory / "socket")]
        rules = json.loads(subprocess.check_output(asked, text=True))["rules"]
        return int(next(rule["packets"] for rule in rules if rule["name"] == name))

    def expected(self) -> list[str]:
        asked = [*CTFW, "list", "--expect", "--socket", str(self.directory / "socket")]
        return subprocess.check_output(asked, text=True).splitlines()


def wait_for(condition: Callable[[], bool], says: Callable[[], str] = lambda: "it did not happen") -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, says()
        time.sleep(0.01)


def listens(host: Namespace, port: int, kind: str) -> bool:
    with host:
        for table in (kind, kind + "6"):
            with open(f"/proc/thread-self/net/{table}") as file:
                for line in file.readlines()[1:]:
                    fields = line.split()
                    if fields[1].endswith(f":{port:04X}") and (kind == "udp" or fields[3] == "0A"):
                        return True
    return False


@contextmanager
def running(directory: Path, helpers: str) -> Iterator[Lab]:
    rules, control = directory / "rules.yaml", directory / "socket"
    rules.write_text(RULES.replace("{HELPERS}", helpers))
    with Network() as net:
        net.queue()
        lab = Lab(net, directory)
        try:
            lab.start(net.gateway, [*CTFW, "run", "--rules", str(rules), "--socket", str(control)], control.exists)
            yield lab
        finally:
            lab.stop()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running(tmp_path, HELPERS) as found:
        yield found


@pytest.fixture
def lab_without_helpers(tmp_path: Path) -> Iterator[Lab]:
    with running(tmp_path, "{}") as found:
        yield found


# FTP


def start_vsftpd(lab: Lab, address: str) -> None:
    vsftpd = program("vsftpd", "vsftpd")
    files = lab.directory / "ftp"
    files.mkdir()
    (files / "file").write_bytes(FILE)
    config = lab.directory / "vsftpd.conf"
    ipv6 = ":" in address
    options = {
        "listen": "NO" if ipv6 else "YES",
        "listen_ipv6": "YES" if ipv6 else "NO",
        "listen_address6" if ipv6 else "listen_address": address,
        "anonymous_enable": "YES",
        "no_anon_password": "YES",
        "ftp_username": "nobody",  # its own user is made only where the package is installed
        "anon_root": files,
        "secure_chroot_dir": files,
        "run_as_launching_user": "YES",
        "seccomp_sandbox": "NO",
        "background": "NO",
        "connect_from_port_20": "YES",
        "vsftpd_log_file": lab.directory / "vsftpd.log",
    }
    config.write_text("".join(f"{name}={value}\n" for name, value in options.items()))
    lab.serve([vsftpd, str(config)], 21)


@pytest.mark.parametrize("address", [SERVER, SERVER6])
@pytest.mark.parametrize("passive", [True, False], ids=["passive", "active"])
def test_vsftpd(lab: Lab, address: str, passive: bool) -> None:
    """PASV and PORT over IPv4, EPSV and EPRT over IPv6: what ftplib says by itself."""
    start_vsftpd(lab, address)
    assert fetched(lab, address, passive) == FILE
    assert lab.rule("announced") > 0


@pytest.mark.parametrize("passive", [True, False], ids=["epsv", "eprt"])
def test_vsftpd_with_the_extended_commands_over_ipv4(lab: Lab, passive: bool) -> None:
    start_vsftpd(lab, SERVER)
    assert fetched(lab, SERVER, passive, Extended) == FILE
    assert lab.rule("announced") > 0


class Extended(ftplib.FTP):
    """One that says EPSV and EPRT over IPv4 too."""

    def makepasv(self) -> tuple[str, int]:
        assert self.sock is not None
        return ftplib.parse229(self.sendcmd("EPSV"), self.sock.getpeername())

    def sendport(self, host: str, port: int) -> str:
        return self.sendeprt(host, port)


def test_vsftpd_without_the_helper_has_no_data_connection(lab_without_helpers: Lab) -> None:
    start_vsftpd(lab_without_helpers, SERVER)
    with pytest.raises(OSError):
        fetched(lab_without_helpers, SERVER, passive=True, timeout=SILENCE)


def fetched(
    lab: Lab, address: str, passive: bool, client: type[ftplib.FTP] = ftplib.FTP, timeout: float = PATIENCE
) -> bytes:
    found = io.BytesIO()
    with lab.net.client, client(timeout=timeout) as ftp:
        ftp.connect(address, 21)
        ftp.login()
        ftp.set_pasv(passive)
        ftp.retrbinary("RETR file", found.write)
    return found.getvalue()


# IRC


class Irc:
    """A client that knows how to say who it is."""

    def __init__(self, host: Namespace, nick: str) -> None:
        with host:
            self.socket = socket.create_connection((SERVER, 6667), PATIENCE)
        self._lines = self.socket.makefile("rb")
        self.say(f"NICK {nick}")
        self.say(f"USER {nick} 0 * :{nick}")
        self.hear(" 001 ")

    def say(self, line: str) -> None:
        self.socket.sendall(line.encode() + b"\r\n")

    def hear(self, word: str) -> str:
        """The next line with ``word`` in it."""
        while True:
            line = self._lines.readline().decode()
            assert line, f"the server hung up before it said {word!r}"
            if line.startswith("PING"):
                self.say("PONG" + line[4:].rstrip())
            if word in line:
                return line.rstrip("\r\n")

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def start_ngircd(lab: Lab) -> None:
    ngircd = program("ngircd", "ngircd")
    needs_users("ngircd")
    config = lab.directory / "ngircd.conf"
    config.write_text(
        f"[Global]\nName = irc.test.example\nInfo = test\nListen = {SERVER}\nPorts = 6667\n"
        "ServerUID = root\nServerGID = root\n[Options]\nDNS = no\nIdent = no\nPAM = no\n"
    )
    lab.serve([ngircd, "-n", "-f", str(config)], 6667)


def test_ngircd_and_a_direct_connection(lab: Lab) -> None:
    start_ngircd(lab)
    ann, bob = Irc(lab.net.client, "ann"), Irc(lab.net.server, "bob")
    with lab.net.client:
        waits = socket.create_server((CLIENT, 0))
        waits.settimeout(PATIENCE)
    port = waits.getsockname()[1]
    with lab.net.server, pytest.raises(OSError):
        socket.create_connection((CLIENT, port), SILENCE)
    (number,) = struct.unpack("!I", socket.inet_aton(CLIENT))
    ann.say(f"PRIVMSG bob :\1DCC SEND file {number} {port} {len(FILE)}\1")
    _, _, offer = bob.hear("DCC SEND").partition("DCC SEND file ")
    address = socket.inet_ntoa(struct.pack("!I", int(offer.split()[0])))
    with lab.net.server:
        comes = socket.create_connection((address, int(offer.split()[1])), PATIENCE)
    here, _ = waits.accept()
    here.sendall(b"hello")
    assert comes.recv(5) == b"hello"
    assert lab.rule("announced") > 0
    for one in (here, comes, waits, ann, bob):
        one.close()


# TFTP


@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_tftpd(lab: Lab, address: str) -> None:
    tftpd = program("in.tftpd", "tftpd-hpa")
    tftp = program("tftp", "tftp-hpa")
    needs_users("in.tftpd")
    files = lab.directory / "tftp"
    files.mkdir()
    (files / "file").write_bytes(FILE)
    ends = f"[{address}]:69" if ":" in address else f"{address}:69"
    family = "-6" if ":" in address else "-4"
    lab.serve([tftpd, "-L", family, "-u", "root", "--address", ends, "--secure", str(files)], 69, "udp")
    got = lab.directory / "got"
    lab.net.client.run(tftp, family, "-m", "binary", address, "-c", "get", "file", str(got), timeout=PATIENCE)
    assert got.read_bytes() == FILE
    assert lab.rule("announced") > 0


# SIP


@pytest.mark.parametrize(("server", "client"), [(SERVER, CLIENT), (SERVER6, CLIENT6)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("transport", ["u1", "t1"], ids=["udp", "tcp"])
def test_sipp(lab: Lab, server: str, client: str, transport: str) -> None:
    """A call, during which the media may come and after which they may not."""
    sipp = program("sipp", "sip-tester")
    kind = "udp" if transport == "u1" else "tcp"
    bare = ["-t", transport, "-nostdin", "-p", "5060"]
    answers = ["-sn", "uas", "-i", bracketed(server), "-mi", bracketed(server), "-mp", "6000", "-rtp_echo"]
    lab.serve([sipp, *answers, *bare], 5060, kind)
    assert not is_echoed(lab, client, server, 6000)
    call = ["-sn", "uac", f"{bracketed(server)}:5060", "-i", bracketed(client), "-mi", bracketed(client)]
    call += ["-m", "1", "-d", "4000"]
    log = lab.directory / "caller.log"
    with log.open("w") as file:
        caller = lab.net.client.start(
            [sipp, *call, *bare], stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=str(lab.directory)
        )
    try:
        media = "src={} dst={} sport=0 dport=6000 sip/audio".format(*map(full, (client, server)))
        wait_for(lambda: any(media in line for line in lab.expected()), log.read_text)
        assert is_echoed(lab, client, server, 6000)
        assert lab.rule("announced") > 0
        caller.wait(PATIENCE)
    finally:
        caller.kill()
        caller.wait()
    assert caller.returncode == 0, log.read_text()
    wait_for(lambda: lab.expected() == [])
    assert not is_echoed(lab, client, server, 6000)


def full(address: str) -> str:
    """As /proc writes it."""
    if ":" not in address:
        return address
    return ":".join(f"{word:04x}" for word in struct.unpack("!8H", socket.inet_pton(socket.AF_INET6, address)))


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def is_echoed(lab: Lab, source: str, target: str, port: int) -> bool:
    """True when a datagram from a port of its own comes back."""
    with lab.net.client:
        talker = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
    with talker:
        talker.settimeout(SILENCE)
        talker.bind((source, 0))
        talker.sendto(b"\x80\0" + os.urandom(30), (target, port))
        try:
            return bool(talker.recv(100))
        except OSError:
            return False
