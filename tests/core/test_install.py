"""What runtimes find on the disk: the plugin, and the network's configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from terwayd.cni import install
from terwayd.config import CniConfig
from terwayd.errors import HostError


@pytest.fixture
def shim(tmp_path: Any) -> Any:
    file = tmp_path / "shim"
    file.write_text("print(1)\n")
    return file


def test_the_plugin_is_put_where_it_is_looked_for(tmp_path: Any, shim: Any) -> None:
    settings = CniConfig(bin_dirs=(str(tmp_path / "a/bin"), str(tmp_path / "b")))
    install.install_plugin(settings, shim)
    for directory in settings.bin_dirs:
        target = tmp_path / directory / "cni-terway"
        assert target.read_bytes() == install.prepared("print(1)\n")
        assert target.stat().st_mode & 0o777 == 0o755
        assert [file.name for file in target.parent.iterdir()] == ["cni-terway"]


def test_the_plugin_is_replaced_by_rename_and_only_when_it_differs(tmp_path: Any, shim: Any) -> None:
    settings = CniConfig(bin_dirs=(str(tmp_path / "bin"),))
    target = tmp_path / "bin/cni-terway"
    install.install_plugin(settings, shim)
    inode = target.stat().st_ino
    install.install_plugin(settings, shim)
    assert target.stat().st_ino == inode
    with target.open() as running:
        shim.write_text("print(2)\n")
        install.install_plugin(settings, shim)
        assert target.stat().st_ino != inode
        assert b"print(1)".hex() in running.read(), "who runs the old one goes on with the old one"
    target.chmod(0o644)
    install.install_plugin(settings, shim)
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_directory_that_is_none_is_told_with_its_key(tmp_path: Any, shim: Any) -> None:
    (tmp_path / "file").touch()
    wrong = CniConfig(bin_dirs=(str(tmp_path / "file"),), conf_dir=str(tmp_path / "file"))
    with pytest.raises(HostError, match=r"^cni\.bin_dirs: cannot write ") as caught:
        install.install_plugin(wrong, shim)
    assert "cni.bin_dirs in /etc/terway.toml" in caught.value.hint
    with pytest.raises(HostError, match=r"^cni\.conf_dir: cannot write "):
        install.write_conflist(wrong)
    install.remove_conflist(wrong)  # nothing is there: nothing to remove
    with pytest.raises(HostError, match="cannot be read: No such file") as caught:
        install.install_plugin(CniConfig(), tmp_path / "gone")
    assert "reinstall" in caught.value.hint


def test_the_conflist_comes_and_goes(tmp_path: Any) -> None:
    settings = CniConfig(conf_dir=str(tmp_path / "net.d"), name="lan")
    install.remove_conflist(settings)
    written = install.write_conflist(settings)
    assert written == tmp_path / "net.d/10-terway.conflist"
    assert json.loads(written.read_text())["name"] == "lan"
    assert written.stat().st_mode & 0o777 == 0o644
    install.write_conflist(settings)
    assert [file.name for file in written.parent.iterdir()] == ["10-terway.conflist"]
    install.remove_conflist(settings)
    install.remove_conflist(settings)
    assert list(written.parent.iterdir()) == []


def test_a_conflist_that_cannot_be_removed_is_told(tmp_path: Any) -> None:
    settings = CniConfig(conf_dir=str(tmp_path))
    (tmp_path / "10-terway.conflist").mkdir()
    with pytest.raises(
        HostError, match=r"^cni\.conf_dir: cannot remove .*10-terway\.conflist: Is a directory"
    ):
        install.remove_conflist(settings)
