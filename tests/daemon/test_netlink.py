"""What is asked of netfilter by netlink (service/netlink.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctfw.nfqueue import attribute
from ctfw.service.netlink import attributes, dump, opened


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_what_was_put_in_comes_out(given: list[tuple[int, bytes]]) -> None:
    assert list(attributes(b"".join(attribute(kind, value) for kind, value in given))) == given


@given(st.binary(max_size=200))
def test_any_bytes_have_an_end(data: bytes) -> None:
    assert sum(len(value) for _, value in attributes(data)) <= len(data)


@pytest.mark.kernel
def test_a_refusal_is_no_empty_answer() -> None:
    with opened() as asker, pytest.raises(OSError):
        list(dump(asker, 0xFF << 8, 0, b""))
