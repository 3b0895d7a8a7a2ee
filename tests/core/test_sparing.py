"""A package whose own `__init__` waits: of an invented one, and of pyroute2, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = {
    "__init__.py": "print('all of it')\nfrom big import heavy\nfrom big.light import NAME\nWHOLE = 1\n",
    "heavy.py": "",
    "light.py": "from big import beside\nNAME = beside.NAME\n",
    "beside.py": "NAME = 'light'\n",
    "needing.py": "from big import WHOLE\n",
}


def run(source: str, *path: Path) -> str:
    begin = f"import sys; sys.path[:0] = {[str(ROOT), *map(str, path)]}\n"
    done = subprocess.run([sys.executable, "-c", begin + source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def invented(tmp_path: Path, source: str) -> str:
    (tmp_path / "big").mkdir()
    for name, text in FILES.items():
        (tmp_path / "big" / name).write_text(text)
    begin = "from terwayd.kernel.sparing import sparing\nsparing('big')\n"
    return run(begin + source, tmp_path)


def test_a_module_is_had_without_its_package(tmp_path: Path) -> None:
    told = invented(tmp_path, "from big.light import NAME; print(NAME, 'big.heavy' in sys.modules)")
    assert told == "light False\n"


def test_the_package_is_had_when_it_is_asked_for(tmp_path: Path) -> None:
    told = invented(
        tmp_path,
        "from big import light\nimport big\nprint(big.WHOLE, big.heavy.__name__, big.light is light)\n"
        "print(hasattr(big, 'nothing'), hasattr(big, 'nothing'))",
    )
    assert told == "all of it\n1 big.heavy True\nFalse False\n"


def test_a_module_that_needs_its_package_has_it(tmp_path: Path) -> None:
    assert invented(tmp_path, "from big.needing import WHOLE; print(WHOLE)") == "all of it\n1\n"


def test_what_is_not_there_is_missed_where_it_is_imported() -> None:
    told = run(
        "from terwayd.kernel.sparing import sparing\nsparing('nowhere')\n"
        "try:\n    import nowhere\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    assert told == "No module named 'nowhere'\n"


def test_the_daemon_loads_no_more_of_pyroute2_than_it_needs() -> None:
    told = run(
        "import terwayd.__main__\nfrom terwayd.kernel.netlink import Netlink\n"
        "print(Netlink().link('lo').index, [m for m in ('ndb', 'ipdb') if f'pyroute2.{m}' in sys.modules])\n"
        "import pyroute2\nprint(pyroute2.IPRoute.__name__, pyroute2.NDB.__name__)"
    )
    assert told == "1 []\nIPRoute NDB\n"
