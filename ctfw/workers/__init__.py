"""Workers: one process per queue of ``--queue-balance``, and somebody who speaks for all of them. Off by default.

One concept a file::

    sibling      what a worker tells and asks the others about connections that are not all its own
    channel      how: a pair of sockets for each two workers, and a page of shared memory
    supervisor   the process that systemd knows: starts the workers, watches them, ends with the first that ends
    aggregate    the control socket of all: asks each worker's own, and puts the answers together
    prepare      a reload in two steps, so that all workers change their rules or none does
    member       one worker as its daemon sees the team
    other_number what systemd kept for more or fewer workers than there are now

Each worker is an ordinary daemon on a queue of its own, with a control socket of its own (the common one's path with a
dot and its number behind it). docs/workers.md says what is common to them and what each has for itself.
"""
