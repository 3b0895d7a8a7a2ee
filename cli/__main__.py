"""`python3 -m terwayctl`: the same as the command."""

from __future__ import annotations

import sys

from .main import main

sys.exit(main())
