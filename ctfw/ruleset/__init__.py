"""Compiled rules and their evaluation: policy, without mechanism.

``config`` builds a Ruleset from the admin's file; here it is only asked. Nothing in here knows YAML, text of addresses,
or how a state came about.
"""
