"""What happens to a packet. The numbers are the kernel's NF_DROP and NF_ACCEPT."""

from typing import Final

DROP: Final = 0
ACCEPT: Final = 1
NAMES: Final = ("drop", "accept")
