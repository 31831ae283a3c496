"""What surrounds the packet loop in the daemon.

Nothing in here may keep the loop waiting: every file knows what it does when the other side is slow. One concept a
file, by what they are for::

    the queue      kernel_queue, networks, failure (who was not judged), listeners; handover (to the next daemon)
    its kernel     hook/ (the rules that hand packets over), kernel_table and offload (flows in the kernel), routes,
                   netlink
    control        control, session, methods, pages, packed, selection, removal; peers, audit (who may, who did);
                   socket_file; client is the other end
    rules          reloading, last_good, panic, members and members_file (dynamic sets), heat (which are used)
    the table      saving, snapshot, restoring, boot: what of it outlives the daemon
    systemd        notify, descriptors
    what it says   journal, kinds, packet_log, alarms; events; eve, eve_log, eve_file, community_id;
                   status, pulse, metrics, metric_families, textfile
    recordings     flight (the last minutes, in memory); recorder, record, record_file (every packet, in a file)
    doctor         doctor, finding, machine, units, directions
    long work      aside, beside, spool, whole_file; team: being one of several workers
"""
