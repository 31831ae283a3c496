"""ctfw, a stateful firewall for a Linux gateway that lives in user space. This page is the map.

The way of one packet::

    NFQUEUE --> nfqueue --> engine.handle(bytes, hook, interfaces, mark, now) --> verdict --> nfqueue --> kernel
                              |
                              |- packet.decode       bytes -> Packet, or the reason why not
                              |- conntrack.track     Packet -> connection, state, direction; the state machine steps NOW
                              |- ruleset.evaluate    the first rule that matches gives the verdict
                              '- only if accepted:   helper (may expect a RELATED connection, may drop),
                                                     then confirm (the connection enters the table)

The order is the kernel's, and it is written in one function, ``engine.Engine.handle``. Every packet is answered exactly
once. Nothing on this path does I/O other than the queue itself, reads a clock, parses text, logs, or imports scapy.

Who lives where, lowest first; a module imports only what stands above it in this list, and a test says so:

==================  ====================================================================================================
``reason``          why a packet is INVALID or was dropped before the rules: numbers, names, sentences
``packet``          headers -> Packet; ``checksum`` verifies what a network card did not; ``packet_text`` prints one
``conntrack/``      mechanism, no policy: the table, the state machines, expectations, helpers, records
``ruleset/``        compiled rules and their evaluation; an index over them; chains, sets, limits, effects
``fragments``       later fragments get what their first one got
``engine``          bytes -> verdict
``receive``         several datagrams of a socket by one call
``nfqueue``         the kernel's queue: read it, give verdicts, count every loss
``loop``            wait for the queue or for anything else; judge; wait again
``config/``         YAML -> settings, rules and their tests; packets in words; lint; the only importer of yaml
``service/``        control socket, log, figures, recordings, reload, hand-over, the kernel's side (hook), doctor
``tools/``          what people ask: explain, rule tests, replay, import, comparisons; the only importers of scapy
``daemon``          the event loop that holds queue, control socket, signals and ticks together
``workers/``        several daemons, one a queue: what they tell each other, and one control socket for all
``cli/``            the command, one file per family of sub-commands
==================  ====================================================================================================

Core and shell: up to ``engine`` everything takes bytes and ``now`` and returns values. No clock, socket, file, log or
random number; times are integers in nanoseconds from any steady origin. The shell (``nfqueue`` and above) reads the
clock once a batch, counts, logs and answers.

Two builds of one source: the modules from ``reason`` to ``loop``, but for what only prints, are plain typed Python that
mypyc compiles as one group at installation; they run uncompiled with the same results (``CTFW_PURE=1 pip install .``),
and the same tests run against both. ``ctfw --version`` says which one runs.

The packages have such a page of their own, the first lines of their ``__init__.py``.
"""

__version__ = "0.1.0"
