"""What people ask of ctfw away from the packet loop. The only importers of scapy.

One concept a file::

    explain        what a packet would get, step by step; explain_live asks the running engine, in a rehearsal of its
                   own; arithmetic: why a packet is INVALID, in numbers
    rule_tests     the tests in a rule file, each on a firewall of its own; from_pcap writes one
    replay         the packets of a capture under a rule file; difference: under two of them; capture reads the files
    forecast       what new rules would make of the last minutes and of what lives now
    compare        the kernel's table and ours, side by side
    build_packet   packets in words -> bytes; write_packet: and back
    iptables/      the rules of iptables-save as a rule file
"""
