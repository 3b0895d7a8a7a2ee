"""terwayctl logs against a real journal."""

from __future__ import annotations

import json

import pytest

from tests.booted.booted import Booted
from tests.booted.test_package import attach, enable
from tests.core.test_cli_golden import validate
from tests.lab import Lan, ShimError, eventually

pytestmark = pytest.mark.booted


def test_the_log_of_one_pod(booted: Booted, lan: Lan) -> None:
    enable(booted)
    web, db = attach(booted, lan, "web-0"), attach(booted, lan, "db-0")
    eventually(lambda: "db-0 has" in booted.run("terwayctl logs").stdout, 5, "the journal has it")
    everything = booted.run("terwayctl logs").stdout
    assert "eth0 is under mybr0" in everything
    for name in ("web-0", "default/web-0", web.container_id):
        of_web = booted.run(["terwayctl", "logs", name]).stdout
        assert f"default/web-0 has {web.address}" in of_web
        assert "db-0" not in of_web
        assert "mybr0" not in of_web
    assert len(booted.run("terwayctl logs -n 1 --json").stdout.split('"message"')) == 2
    document = json.loads(booted.run("terwayctl logs db-0 --json").stdout)
    validate("logs", document)
    [entry] = [each for each in document["entries"] if f"has {db.address}" in each["message"]]
    assert (entry["level"], entry["pod"]) == ("info", "default/db-0")

    # A pod that is gone has logs too, and following shows what comes.
    following = booted.popen("timeout 30 terwayctl logs -f -n 1 default/web-0 --json", stdout=-1)
    with following:
        assert following.stdout is not None
        assert "default/web-0 has" in following.stdout.readline().decode()
        web.delete()
        line = json.loads(following.stdout.readline())
        validate("logs", line)
        assert line["message"] == "default/web-0 is detached"
        booted.run("kill $(pidof journalctl)")
    assert "is detached" in booted.run("terwayctl logs default/web-0").stdout
    # And so has one that could not be attached.
    booted.write("/etc/terway.toml", '[dhcp]\ntimeout = "1s"\n')
    booted.systemctl("reload", "terwayd")
    lan.dhcp.stop()
    with pytest.raises(ShimError, match="no DHCP lease"):
        attach(booted, lan, "late-0")
    of_late = booted.run("terwayctl logs late-0").stdout
    assert "CNI ADD of default/late-0: no DHCP lease for" in of_late
    assert "web-0" not in of_late
    # Lines that have no field are found by their text, of the whole name only.
    assert "mybr0" in booted.run("terwayctl logs mybr0").stdout
    nothing = booted.run("terwayctl logs ybr0", check=False)
    assert "mybr0" not in nothing.stdout
