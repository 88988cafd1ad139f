"""The command line: `iredinterp COMMAND ...`, or `python -m iredinterp COMMAND ...`."""

import sys

from iredinterp.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
