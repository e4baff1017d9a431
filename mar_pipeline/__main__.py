"""`python -m mar_pipeline` is the `mar` program."""

import sys

from mar_pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
