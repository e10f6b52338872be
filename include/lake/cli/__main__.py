"""`python -m include.lake.cli` is the command `./lake`."""

import sys

from include.lake.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
