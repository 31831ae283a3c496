"""`ctfw import iptables-save`: what iptables-save prints -> a rule file that means the same.

The way of a text::

    save       text -> tables, chains and lines, as iptables-restore reads them
    options    one line -> its matches and its target, each with its options
    matches    the matches -> keys of a rule; one line may take several rules ("alternatives")
    targets    the target -> the verdict, or what else the rule does
    chains     a family's chains -> entries: rules, and remarks about what has no counterpart
    raw        the raw table -> helpers and `track: none`
    merge      the chains of both families -> one list for each
    document   all of it -> YAML
    convert    the order of these steps

Two rules stand over everything. Meaning never changes silently: what cannot be said exactly is left out, its line
stands as a comment in its place with the reason, and it is reported. And where leaving it out may let packets pass that
the line stopped, that is a warning, not a remark (`_opening` in ``chains``). Nothing here raises for any text.
"""
