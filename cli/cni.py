"""terwayctl cni: the plugin and the network configuration, where container runtimes look for them."""

from __future__ import annotations

from .client import Client
from .render import Page, print_json


def install(client: Client, *, as_json: bool = False) -> int:
    """Put both in place; the configuration only while the node takes pods."""
    files = client.call("InstallCni")["files"]
    return _tell(files, "is in place", "nothing is in place", as_json=as_json)


def uninstall(client: Client, *, force: bool = False, as_json: bool = False) -> int:
    """Take both away, so that no more pods come."""
    files = client.call("UninstallCni", force=force)["files"]
    return _tell(files, "is gone", "nothing was there", as_json=as_json)


def _tell(files: list[str], what: str, nothing: str, *, as_json: bool) -> int:
    if as_json:
        print_json({"files": files})
        return 0
    page = Page()
    for file in files:
        page.line(f"{file} {what}.")
    if not files:
        page.line(f"{nothing.capitalize()}.")
    page.show()
    return 0
