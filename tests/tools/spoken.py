"""Packets in words, in any mixture: what Hypothesis draws conversations from."""

from hypothesis import strategies as st

A, B = "192.168.1.7", "203.0.113.9"
CLIENT, SERVER = f"tcp {A}:40000 > {B}:443", f"tcp {B}:443 > {A}:40000"

SIZES = st.sampled_from([0, 1, 1000, 64240, 65999, 66001, 70000, 1 << 31, (1 << 32) - 1, (1 << 32) - 70000])


@st.composite
def segments(draw: st.DrawFn) -> str:
    side = draw(st.sampled_from([CLIENT, SERVER]))
    flags = draw(
        st.sampled_from(["syn", "syn ack", "ack", "ack", "ack psh", "fin ack", "rst", "rst ack", "null", "syn fin"])
    )
    words = [side, flags]
    for name in ("seq", "ack"):
        if draw(st.integers(0, 2)) == 0:
            words.append(f"{name}={draw(SIZES)}")
    if draw(st.booleans()):
        words.append(f"len={draw(st.sampled_from([1, 100, 1460]))}")
    if draw(st.integers(0, 3)) == 0:
        words.append(f"win={draw(st.sampled_from([0, 1, 512, 65535]))}")
    if "syn" in flags:
        words.append(draw(st.sampled_from(["", "wscale=7 sackok", "wscale=14", "sackok"])))
    return " ".join(words)


others = st.sampled_from([
    f"udp {A}:1 > {B}:53", f"udp {B}:53 > {A}:1 len=4", f"icmp {A} > {B}", f"icmp {B} > {A} echo-reply",
    f"icmp {B} > {A} port-unreachable quotes (udp {A}:1 > {B}:53)", f"icmp {B} > {A} ttl-exceeded quotes ({CLIENT})",
    f"sctp {A}:1 > {B}:2 init", f"sctp {B}:2 > {A}:1 init-ack", f"sctp {A}:1 > {B}:2 cookie-echo",
    f"sctp {B}:2 > {A}:1 cookie-ack",
    f"sctp {A}:1 > {B}:2 data len=3 vtag=77", f"gre {A} > {B} len=4", f"gre {B} > {A} len=4", f"tcp {A}:2 > {B}:22 syn",
    f"udp {A}:5 > {B}:6 more len=64", f"udp {A} > {B} fragment=72 len=64", f"udp {A} > {B} fragment=72 len=64 more",
])  # fmt: skip
