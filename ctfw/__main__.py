"""`python -m ctfw` is the command `ctfw`."""

import sys

from ctfw.cli import main

if __name__ == "__main__":
    sys.exit(main())
