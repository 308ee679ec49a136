"""``python -m defectgen`` is the command ``defectgen``."""

import sys

from defectgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
