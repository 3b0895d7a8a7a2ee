"""`python3 -m terwayctl`: the same as the command."""

from __future__ import annotations

import sys

from .entry import main

sys.exit(main())
