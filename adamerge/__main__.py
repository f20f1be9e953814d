"""`python -m adamerge`: the same as the command `adamerge`."""

import sys

from adamerge.cli import main

if __name__ == "__main__":
    sys.exit(main())
