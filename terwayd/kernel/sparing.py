"""A package whose `__init__` runs only when something of it is asked for: its modules are to be had without it.

pyroute2's loads all that it can do: 11 MiB, and half of the time that this daemon needs to start.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any


def sparing(name: str) -> None:
    """Have `import name.module` load that module and what it needs, and `name.other` all of the package.

    For a package that nobody has imported yet; one that is not there is left to whoever imports it.
    """
    if name in sys.modules or (spec := importlib.util.find_spec(name)) is None or spec.loader is None:
        return
    loader, package = spec.loader, importlib.util.module_from_spec(spec)

    def missing(attribute: str) -> Any:
        try:
            return importlib.import_module(f"{name}.{attribute}")
        except ModuleNotFoundError:
            if package.__dict__.pop("__getattr__", None) is not None:  # PEP 562
                loader.exec_module(package)
            return getattr(package, attribute)

    package.__dict__["__getattr__"] = missing
    sys.modules[name] = package
