"""YAML rule files -> Settings and Ruleset: positions, schema, lint. The only importer of yaml.

The way of a file, one module a step::

    load        bytes -> Config; gives up as a whole
    document    text -> tree of nodes with places            (yaml ends here)
    walk        mapping + its section of schema -> Fields
    values      one scalar -> address, port, duration ...    (names: the words for numbers)
    sets        lists, negation, $names -> compiled sets
    rules       one entry -> one Rule; what can only be said about a whole rule
    problems    findings with places, and how they are printed

Nothing here runs while packets are judged: the daemon loads a file and swaps in the result.
"""

from ctfw.config.load import Config, load
from ctfw.config.problems import ConfigError, Problem, render

__all__ = ["Config", "ConfigError", "Problem", "load", "render"]
