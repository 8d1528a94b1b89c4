"""`python -m lastword` is the command `lastword`."""

import sys

from ._main import main

sys.exit(main())
