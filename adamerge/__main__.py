"""`python -m adamerge`: the same as the command `adamerge`."""

import os
import sys

if sys.path[:1] == [os.getcwd()] and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current directory there; a file torch.py in it is not torch

from adamerge.cli import main

if __name__ == "__main__":
    sys.exit(main())
