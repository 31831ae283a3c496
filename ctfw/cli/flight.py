"""`ctfw flight`: what the daemon's flight recorder holds, written to a file.

The daemon hands out its memory in chunks between packets; the file is made here, in the form of `ctfw run --record`, so
`ctfw replay` and Wireshark read it. Beside the annotation of a recording each packet has a second comment, which says
how it was judged.
"""

from __future__ import annotations

import argparse
import sys
from base64 import b64decode

from ctfw.cli.socket_option import add_socket
from ctfw.service.client import Client, socket_path
from ctfw.service.flight import unpack
from ctfw.service.record import Blocks
from ctfw.service.record_file import RecordFile


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to the parser."""
    flight = subparsers.add_parser(
        "flight",
        help="write out what the flight recorder holds",
        description="The flight recorder keeps headers and verdicts of the last minutes in the daemon's memory, when "
        "the rule file has a section `recorder`: the packets that open and close connections, and those dropped.",
    )
    commands = flight.add_subparsers(metavar="WHAT", required=True)
    parser = commands.add_parser(
        "save",
        help="save the last minutes as a capture",
        description="Writes what the recorder holds to a pcapng file that `ctfw replay` and Wireshark read. Only its "
        "owner may read it: it holds other people's traffic.",
    )
    parser.add_argument("file", metavar="FILE", help="the file; what it holds is replaced")
    add_socket(parser)
    parser.set_defaults(handler=save)


def save(arguments: argparse.Namespace) -> int:
    """`ctfw flight save`; returns the exit code."""
    missed = 0
    blocks = Blocks()
    with Client(socket_path(arguments.socket)) as client:
        clock = client.call("clock")
        offset = clock["unix"] - clock["now"]
        pages = client.pages("flight")
        first = next(pages, "")  # asked before the file is emptied: the recorder may be off
        try:
            file = RecordFile(arguments.file)
        except OSError as error:
            print(f"ctfw: flight: {arguments.file}: {error.strerror or error}", file=sys.stderr)
            return 4 if isinstance(error, PermissionError) else 1
        for chunk in (first, *pages):
            if not chunk:
                missed += chunk is None
                continue
            made = [
                blocks.packet(
                    one.data,
                    one.length,
                    one.now + offset,
                    one.hook,
                    one.indev,
                    one.outdev,
                    one.mark,
                    one.checksum,
                    one.note(),
                )
                for one in unpack(b64decode(chunk))
            ]
            file.write(b"".join(made), len(made))
    file.close(clock["unix"])
    if file.error:
        print(f"ctfw: flight: {arguments.file}: {file.error}", file=sys.stderr)
    lost = f" missed={missed} chunks" if missed else ""
    print(f"saved: file={arguments.file} packets={file.packets}{lost}")
    return 1 if file.error else 0
