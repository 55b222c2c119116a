"""``python -m innerloop`` runs the command line."""

import sys

from innerloop.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
