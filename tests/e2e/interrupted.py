"""A takeover or teardown that ends at a given step: for test_interrupted, run on a node as a program.

`interrupted.py setup|teardown kill|error|count STEP`: does the real thing with the real kernel and
journal; right after STEP steps this process is killed, or the kernel's answer to that step is an
error, or the steps are counted and printed.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from terwayd.config import DEFAULT_PATH
from terwayd.daemon import read_config
from terwayd.errors import KernelError, TerwayError
from terwayd.host import apply, steps
from terwayd.host.takeover import Takeover
from terwayd.kernel.netlink import Netlink
from terwayd.store import Store


def main() -> None:
    action, how, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    done = 0
    real = apply.do

    def do(netlink: Netlink, step: steps.Step) -> None:
        nonlocal done
        done += 1
        if how == "error" and done == at:
            raise KernelError(f"{step}: refused for the test", errno.ENOMEM)
        real(netlink, step)
        if how == "kill" and done == at:
            os.kill(os.getpid(), signal.SIGKILL)

    apply.do = do
    takeover, netlink = Takeover(Store(), read_config(DEFAULT_PATH)), Netlink()
    try:
        takeover.setup(netlink) if action == "setup" else takeover.teardown(netlink)
    except TerwayError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    print(done)


if __name__ == "__main__":
    main()
