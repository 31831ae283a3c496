"""YAML rule files -> Settings and Ruleset: positions, schema, lint. The only importer of yaml.

The way of a file, one module a step::

    load        bytes -> Config; gives up as a whole
    document    text -> tree of nodes with places            (yaml ends here)
    walk        mapping + its section of schema -> Fields
    values      one scalar -> address, port, duration ...    (names: the words for numbers)
    sets        lists, negation, $names -> compiled sets
    rules       one entry -> one Rule; what can only be said about a whole rule
    invariants  `never:` is held against all packets there can be
    lint        warnings about what the rules mean together; `missing`: about what they leave out
    problems    findings with places, and how they are printed

``space`` is the arithmetic of the last but one, ``conditions`` what it has no coordinates for; ``json_schema`` is the
table of ``schema`` for editors, ``foreign`` has the words of other firewalls.

Nothing here runs while packets are judged: the daemon loads a file and swaps in the result.
"""

from ctfw.config.files import Stored
from ctfw.config.load import Config, load
from ctfw.config.metrics import MetricsSettings
from ctfw.config.problems import ConfigError, Problem, render

__all__ = ["Config", "ConfigError", "MetricsSettings", "Problem", "Stored", "load", "render"]
