"""Real traffic for a Network: the servers on its server side, and what its machines do with each other.

A function here runs in the namespace that its caller is in (`with net.client:`) and returns in words how it
ended. All of it is the kernel's own TCP, UDP and ICMP but for segment(), which sends what no host should.
"""

import ftplib
import http.client
import io
import logging
import os
import select
import socket
import struct
import tempfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from lab.net import SERVER, SERVER6, Namespace

PAGE: Final = bytes(range(256)) * 8192  # 2 MB
TIMEOUT: Final = 5.0
SHORT: Final = 0.7  # where silence is expected: less than TCP's first retransmission takes
SILENCE: Final = "no answer"

FIN: Final = 1
RST: Final = 4
ACK: Final = 16

_IP_RECVERR: Final = 11
_ICMP_ERRORS: Final = {3: "port unreachable", 11: "time exceeded"}
_ECHO_REQUEST: Final = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY: Final = {socket.AF_INET: 0, socket.AF_INET6: 129}


def serve(server: Namespace, files: str) -> None:
    """HTTP on 80, FTP of the directory `files` on 21, and on UDP 53 a name server that echoes."""
    logging.getLogger("pyftpdlib").addHandler(logging.NullHandler())  # else it logs to our terminal
    FTPHandler.authorizer = DummyAuthorizer()
    FTPHandler.authorizer.add_anonymous(files)
    with server:
        for address in (SERVER, SERVER6):
            server.serve(_Web((address, 80), _Page).serve_forever)
            server.serve(FTPServer((address, 21), FTPHandler, IOLoop()).serve_forever)
            names = socket.socket(_family(address), socket.SOCK_DGRAM)
            names.bind((address, 53))
            server.serve(partial(_echo, names))


def ping(address: str, count: int = 3) -> str:
    family = _family(address)
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    identifier = os.urandom(2)
    payload = b"are you there?"
    answers = 0
    with socket.socket(family, socket.SOCK_RAW, protocol) as icmp:
        icmp.settimeout(SHORT)
        for number in range(1, count + 1):
            request = struct.pack("!BBH2sH", _ECHO_REQUEST[family], 0, 0, identifier, number) + payload
            icmp.sendto(_with_checksum(request, 2), (address, 0))
            try:
                while True:
                    packet = icmp.recv(2048)
                    reply = packet[20:] if family == socket.AF_INET else packet
                    if reply[0] == _ECHO_REPLY[family] and reply[4:8] == request[4:8]:
                        break
            except TimeoutError:
                continue
            answers += 1
    return f"{answers} of {count} answered" if answers else SILENCE


def download(address: str) -> str:
    web = http.client.HTTPConnection(address, 80, timeout=TIMEOUT)
    web.request("GET", "/", headers={"Connection": "close"})
    return _size(web.getresponse().read())


def ask(address: str) -> str:
    """A question to a name server."""
    with _datagrams(address, 53) as names:
        try:
            return f"answer of {len(names.recv(512))} bytes"
        except TimeoutError:
            return SILENCE


def probe(address: str, ttl: int) -> str:
    """One of traceroute's probes, and the ICMP error that comes of it."""
    with _datagrams(address, 33434, ttl) as probes:
        try:
            probes.recv(512)
        except TimeoutError:
            return SILENCE
        except OSError:
            told = probes.recvmsg(512, 512, socket.MSG_ERRQUEUE)[1][0][2]  # struct sock_extended_err
            return f"{_ICMP_ERRORS.get(told[5], 'ICMP error')}, says {socket.inet_ntoa(told[20:24])}"
    return "an answer?"


def fetch(address: str, passive: bool) -> str:
    data = io.BytesIO()
    with ftplib.FTP(timeout=TIMEOUT) as ftp:
        ftp.connect(address)
        ftp.login()
        ftp.set_pasv(passive)
        ftp.retrbinary("RETR page", data.write)
    return _size(data.getvalue())


def connect(address: str, port: int) -> str:
    try:
        socket.create_connection((address, port), timeout=SHORT).close()
    except TimeoutError:
        return SILENCE
    except ConnectionRefusedError:
        return "refused"
    return "connected"


def segment(address: str, port: int, flags: int, witness: Namespace) -> str:
    """A lone TCP segment that belongs to no connection; whether `witness`, where it is bound for, sees it."""
    with witness:
        seen = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with seen, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.connect((address, 0))
        here = raw.getsockname()[0]
        header = struct.pack("!HHIIBBHHH", 40000 + flags, port, 1_000_000, 0, 5 << 4, flags, 1024, 0, 0)
        pseudo = socket.inet_aton(here) + socket.inet_aton(address) + struct.pack("!HH", 6, len(header))
        raw.send(_with_checksum(pseudo + header, len(pseudo) + 16)[len(pseudo) :])
        while select.select([seen], [], [], SHORT)[0]:
            if seen.recv(2048)[20:24] == header[:4]:
                return "arrived"
    return SILENCE


def files() -> "tempfile.TemporaryDirectory[str]":
    """A directory with the page in it, for serve()."""
    directory = tempfile.TemporaryDirectory(prefix="ctfw-lab-")
    with open(f"{directory.name}/page", "wb") as page:
        page.write(PAGE)
    return directory


class _Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = _family(address[0])
        super().__init__(address, page)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # without asking a name server who we are


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


def _datagrams(address: str, port: int, ttl: int = 64) -> socket.socket:
    """A socket that has sent one datagram and hears of ICMP errors about it."""
    datagrams = socket.socket(_family(address), socket.SOCK_DGRAM)
    datagrams.settimeout(SHORT)
    datagrams.connect((address, port))
    if datagrams.family == socket.AF_INET:
        datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        datagrams.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    datagrams.send(b"who is example.net?")
    return datagrams


def _echo(names: socket.socket) -> None:
    while True:
        question, asker = names.recvfrom(512)
        names.sendto(question + b" it is", asker)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _size(data: bytes) -> str:
    return f"{len(data) / 1e6:.1f} MB, {'intact' if data == PAGE else 'damaged'}"


def _with_checksum(data: bytes, at: int) -> bytes:
    """`data` with its Internet checksum at offset `at`, which held zero. (ICMPv6's is the kernel's work.)"""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack("!H", ~total & 0xFFFF) + data[at + 2 :]
