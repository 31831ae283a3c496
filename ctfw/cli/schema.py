"""`ctfw schema`: what rule files look like, for editors.

The JSON Schema is made from the table that rule files are read by. A file whose first line is
`# yaml-language-server: $schema=PATH` is checked against it while one types.
"""

from __future__ import annotations

import argparse
import json

from ctfw.config import json_schema


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of rule files",
        description="Prints the JSON Schema (draft-07) of rule files, by which editors complete and check them. A rule "
        "file names it in its first line: '# yaml-language-server: $schema=/usr/share/ctfw/rules.schema.json'.",
    )
    parser.add_argument("--included", action="store_true", help="of a file that another one includes (rules.d)")
    parser.set_defaults(handler=schema)


def schema(arguments: argparse.Namespace) -> int:
    """Prints it."""
    document = json_schema.included_file() if arguments.included else json_schema.rule_file()
    print(json.dumps(document, indent=2))
    return 0
