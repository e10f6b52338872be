"""`python -m include.lake.cli` is the command `./lake`."""

import sys

from include.lake.cli import warm

if __name__ == "__main__":
    code = warm.run(sys.argv[1:])
    if code is None:
        from include.lake.cli.main import main

        code = main()
    sys.exit(code)
