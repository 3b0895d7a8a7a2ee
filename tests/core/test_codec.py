"""Values to JSON and back: what is journalled must come back as it was, and nothing else must pass for it."""

from __future__ import annotations

import dataclasses
import json
import typing
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from terwayd import codec
from terwayd.host import interfaces, moves
from terwayd.host.plan import Plan
from terwayd.host.steps import Step
from terwayd.model import Address, Hop, Neighbour, Route
from terwayd.pods.identity import Attachment

KINDS: tuple[type, ...] = typing.get_args(Step)
PLANS = st.from_type(Plan)
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(codec.encode(value)))


@QUICK  # type: ignore[misc]
@given(PLANS)  # type: ignore[misc]
def test_a_plan_comes_back_as_it_was(plan: Plan) -> None:
    back = codec.decode(Plan, through_json(plan))
    assert back == plan
    assert [type(step) for step in back.steps] == [type(step) for step in plan.steps]
    assert [str(step) for step in back.steps] == [str(step) for step in plan.steps]


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_comes_back_alone(kind: type) -> None:
    @QUICK  # type: ignore[misc]
    @given(st.from_type(kind))  # type: ignore[misc]
    def comes_back(step: Step) -> None:
        plan = Plan("eth0", "mybr0", (step,))
        assert codec.decode(Plan, through_json(plan)).steps == (step,)

    comes_back()


def test_the_types_come_back_too() -> None:
    address = Address("eth0", IPv4Interface("192.0.2.1/24"), broadcast=IPv4Address("192.0.2.255"))
    route = Route(
        IPv6Network("::/0"),
        "eth0",
        IPv6Address("fe80::1"),
        metrics=(("RTAX_MTU", 1400),),
        hops=(Hop("eth0", IPv4Address("192.0.2.1")),),
    )
    back = codec.decode(Plan, through_json(Plan("", "", (moves.AddAddress(address), moves.AddRoute(route)))))
    added, routed = back.steps
    assert isinstance(added, moves.AddAddress)
    assert isinstance(routed, moves.AddRoute)
    assert type(added.address.interface) is IPv4Interface
    assert type(added.address.broadcast) is IPv4Address
    assert type(routed.route.dst) is IPv6Network
    assert type(routed.route.gateway) is IPv6Address
    assert routed.route.metrics == (("RTAX_MTU", 1400),)
    assert type(routed.route.hops[0].gateway) is IPv4Address


def test_what_is_written_is_named() -> None:
    assert codec.encode(interfaces.Enslave("eth0", "mybr0")) == {
        "is": "Enslave",
        "dev": "eth0",
        "bridge": "mybr0",
    }


POD = Attachment(
    *(
        "terway",
        "c0ffee",
        "eth0",
        "/run/netns/x",
        "default",
        "web-0",
        "tw0",
        "02:00:00:00:00:01",
        "ff",
        "web-0",
    )
)


def test_an_attachment_comes_back_as_it_was() -> None:
    assert codec.decode(Attachment, through_json(POD)) == POD


GOOD = codec.encode(POD)
PLAN = codec.encode(Plan("eth0", "mybr0", (interfaces.SetUp("mybr0"),)))


@pytest.mark.parametrize(
    ("wanted", "raw"),
    [
        (Attachment, None),
        (Attachment, []),
        (Attachment, "text"),
        (Attachment, {}),
        (Attachment, {**GOOD, "colour": "red"}),
        (Attachment, {key: value for key, value in GOOD.items() if key != "mac"}),
        (Attachment, {**GOOD, "mac": 7}),
        (Attachment, {**GOOD, "name": None}),
        (Attachment, {**GOOD, "is": "Plan"}),
        (Plan, {**PLAN, "steps": None}),
        (Plan, {**PLAN, "steps": "text"}),
        (Plan, {**PLAN, "steps": [{"is": "FormatDisk", "dev": "sda"}]}),
        (Plan, {**PLAN, "steps": [{"dev": "mybr0"}]}),
        (Plan, {**PLAN, "steps": ["SetUp"]}),
        (Plan, {**PLAN, "steps": [None]}),
        (Plan, {**PLAN, "steps": [{"is": "SetUp"}]}),
        (Plan, {**PLAN, "warnings": [7]}),
        (Address, {"dev": "eth0", "interface": "192.0.2.300/24"}),
        (Address, {"dev": "eth0", "interface": 7}),
        (Address, {"dev": "eth0", "interface": "192.0.2.1/24", "flags": "2"}),
        (Address, {"dev": "eth0", "interface": "192.0.2.1/24", "valid": "2"}),
        (Address, {"dev": "eth0", "interface": "192.0.2.1/24", "broadcast": "fe80::1"}),
        (Address, {"dev": "eth0", "interface": None}),
        (Neighbour, {"dev": "eth0", "ip": "192.0.2.1", "mac": "", "permanent": 1}),
        (Route, {"dst": "192.0.2.0/24", "metrics": [["RTAX_MTU"]]}),
        (Route, {"dst": "192.0.2.0/24", "metrics": [["RTAX_MTU", None]]}),
        (Route, {"dst": "192.0.2.1/24"}),
    ],
)
def test_what_is_no_such_value_is_refused(wanted: type, raw: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        codec.decode(wanted, raw)


KEYS = st.sampled_from(sorted({"is", *GOOD, *PLAN}))
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(["Plan", "SetUp", "192.0.2.1", "eth0"])
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8)


@QUICK  # type: ignore[misc]
@given(JSON)  # type: ignore[misc]
def test_no_json_breaks_it(raw: Any) -> None:
    for wanted in (Plan, Attachment):
        try:
            found = codec.decode(wanted, raw)
        except (ValueError, TypeError):
            continue
        assert dataclasses.is_dataclass(found)
