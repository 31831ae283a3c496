"""Whatever comes, rules that ask for everything are asked about it without a word of complaint."""

from engine import packets
from hypothesis import given, settings
from hypothesis import strategies as st
from ruleset.gateway import CLIENT, SERVER, Gateway, query, syn

from ctfw.ruleset.trace import trace

RULES = """
existing: recheck
sets: {banned: {members: [10.0.0.1], dynamic: on, max: 3}, far: ["!$banned", "!10.0.0.0/8"]}
chains: {more: [{name: deep, length: 40-60, verdict: continue, set_mark: 0x1/0x3}]}
rules:
  - {name: rough, ttl: 7, track: none}
  - {name: easy, tcp_flags: syn, track: liberal}
  - {name: invalid, state: INVALID, verdict: continue, log: true, add: {set: banned, prefix4: 23, prefix6: 48}}
  - {name: down, src: $far, jump: more}
  - {name: pieces, fragment: on, verdict: reject}
  - {name: odd, dscp: "!0", icmp: any, icmpv6: any, verdict: drop}
  - {name: flags, tcp_flags: ["!syn", "none/all"], verdict: accept}
  - {name: mac, mac: "!52:54:00:12:34:56", mark: 0x0/0xff, verdict: accept}
  - {name: slow, limit: {rate: 1/minute, per: dst, prefix6: 0}, connlimit: {upto: 3, per: dst}, verdict: accept}
  - {name: rest, connage: -1h, connbytes: 1-, connpackets: -9, status: "!assured", helper: none, verdict: reject}
"""
SEEDS = [
    syn(), query(), packets.tcp("2001:db8::1", "2001:db8::2", 1, 2, "syn"), packets.icmp(CLIENT, SERVER, 8, ident=1),
    packets.icmp(SERVER, CLIENT, 3, 1, data=syn()), packets.ip(CLIENT, SERVER, 17, bytes(16), more=True),
    packets.ip(CLIENT, SERVER, 17, bytes(16), offset=16),
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_packet_makes_the_engine_raise(data: st.DataObject) -> None:
    gateway = Gateway(RULES)
    for _ in range(4):
        packet = bytearray(data.draw(st.sampled_from(SEEDS) | st.binary(max_size=80)))
        for _ in range(data.draw(st.integers(0, 3))):
            if packet:
                packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
        packet = packet[: data.draw(st.integers(0, len(packet)))] if data.draw(st.booleans()) else packet
        mac = data.draw(st.sampled_from([b"", b"\0" * 6, b"\1" * 6]))
        judgement = gateway.judge(
            bytes(packet), data.draw(st.integers(0, 4)), data.draw(st.integers(0, 2**32 - 1)), mac
        )
        assert judgement.verdict in (0, 1) and -1 <= judgement.mark <= 0xFFFFFFFF
        assert judgement.mark == -1 or judgement.reject or judgement.mark & gateway.engine.ruleset.own_field == 0
        list(trace(gateway.engine.ruleset, judgement.packet, 2, "", "", judgement.conn, 0, mac, gateway.now))
        if data.draw(st.booleans()):
            gateway.reload(RULES)
