"""`python -m unires`."""

import sys

from unires.doors.cli import main

if __name__ == "__main__":
    sys.exit(main())
