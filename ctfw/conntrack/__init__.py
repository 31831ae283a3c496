"""The connection-tracking engine: mechanism without policy.

It answers one question, "what is this packet to the connections I know", exactly as the kernel's nf_conntrack would,
and keeps the table that it needs for that. It knows packets, time as a number, and itself; no rules, files or sockets.

==============  ========================================================================================================
``state``       the words of the rules: NEW ... UNTRACKED, and the status bits of a connection
``settings``    every knob, under its sysctl's name
``conn``        one connection
``table``       the connections by tuple; expiry, early drop, the limit
``tcp``         transitions as a table, windows as code
``sctp``        chunks as a table, verification tags as code
``udp`` ``icmp`` ``gre`` ``generic``   the simpler protocols
``expect``      connections that helpers announced
``helpers/``    FTP, SIP, PPTP and others: read a connection's payload, announce the next one
``tracker``     ties these together: ``track`` before the rules, ``confirm`` after them
``killed``      connections that somebody cut: their packets are dropped until both ends have stopped
``siblings``    the seam to the trackers of other workers
``events``      NEW, UPDATE, DESTROY, for whoever listens
``image``       a connection as bytes, and back, for the next daemon
``record``      a connection as the kernel prints it
==============  ========================================================================================================
"""
