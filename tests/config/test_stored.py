"""What a configuration was read from, and how it is told from another."""

from engine.conversation import Gateway
from handover.lives import saving

from ctfw.config import Stored
from ctfw.packet import FORWARD
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import ACCEPT


def test_the_same_files_have_the_same_digest_and_others_another() -> None:
    large = b"x" * 200_000
    one = Stored({"/a": large, "/b": b""})
    assert one.digest() == Stored({"/a": bytes(large), "/b": b""}).digest()
    others = ({"/a": large}, {"/a": large[:-1] + b"y", "/b": b""}, {"/b": large, "/a": b""}, {"/a": b"", "/b": large})
    assert len({Stored(files).digest() for files in others} | {one.digest()}) == 5


def test_the_record_of_the_table_does_not_keep_old_rules() -> None:
    """They are a hundred thousand objects, and whoever lets go of them last frees them all at once."""
    gateway = Gateway()
    with saving(gateway) as (saver, _):
        saver.begin(gateway.now)
        old = gateway.engine.ruleset
        gateway.engine.ruleset = Ruleset([], {FORWARD: ACCEPT})
        assert old not in [getattr(saver, name) for name in vars(saver)]
