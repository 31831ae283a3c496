"""The hook: the kernel's rules that hand packets to ctfw, made from the rule file.

One concept a file, from the rule file to the kernel::

    plan        what shall be queued, and what never; where a queue may stand
    programs    nft and iptables, run here or in a scratch namespace
    reject      the answers to what ctfw rejects
    nft         the back end for a kernel whose nft has `queue`
    iptables    the back end for the others
    install     choose one, apply, remove, hold against the plan
    present     what the daemon itself may ask the kernel

Invariants. Only what is named ctfw is ever touched: the tables `inet ctfw` and `inet ctfw_reject`, the chains CTFW-*
and the jumps to them. An apply that fails leaves everything as it was, one that is repeated changes nothing. While a
change is made there is no moment in which less is queued than before and after it, nor one in which a packet comes
marked from ctfw and nobody answers it. The daemon never runs any of this but `present`.
"""
