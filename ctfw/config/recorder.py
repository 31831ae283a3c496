"""The section `recorder`: whether the daemon keeps the headers of the last minutes, and how much of them."""

from dataclasses import dataclass

from ctfw.config.walk import Fields


@dataclass(frozen=True)
class RecorderSettings:
    """``memory`` is in bytes, ``headers`` in bytes of each packet."""

    minutes: int = 10
    memory: int = 16 << 20
    headers: int = 128


def read_recorder(fields: Fields) -> RecorderSettings:
    """The section's fields -> RecorderSettings."""
    return RecorderSettings(**fields.values)
