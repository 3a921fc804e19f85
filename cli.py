"""Start the command line from an uninstalled checkout: `python cli.py --help`."""

import sys

from linalign_lite.commands import main

if __name__ == "__main__":
    sys.exit(main())
