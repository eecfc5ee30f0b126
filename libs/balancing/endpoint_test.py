from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from libs.balancing.endpoint import Endpoint, EndpointError

PORTS = st.integers(1, 65535)


@given(st.ip_addresses(), PORTS)
def test_every_address_round_trips(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    assume(not getattr(address, "ipv4_mapped", None))
    endpoint = Endpoint(str(address), port)
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert not endpoint.is_name


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,10}){1,3}", fullmatch=True), PORTS)
def test_every_name_round_trips(name: str, port: int) -> None:
    endpoint = Endpoint.parse(f"{name}:{port}")
    assert str(endpoint) == f"{name}:{port}"
    assert endpoint.is_name


@given(st.text(max_size=40))
def test_any_text_parses_or_says_what_was_expected(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except EndpointError as error:
        assert error.expected
    else:
        assert Endpoint.parse(str(endpoint)) == endpoint
        assert 1 <= endpoint.port <= 65535


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("fd00::7:8500", "ambiguous", "brackets"),
        ("[fd00::7]", "not an endpoint", "[fd00::7]:8500"),
        ("[10.0.0.1]:1", "not an IPv6", "without them"),
        ("10.0.0.256:1", "not an IPv4", ""),
        ("10.0.0.1", "no port", "10.0.0.1:8500"),
        ("a:70000", "not a port", ""),
        ("a:٣", "not a port", ""),
        (":1", "no host", ""),
        ("-a:1", "not a host name", "letters"),
        (f"{'a' * 64}:1", "not a host name", "63"),
        ("[fe80::1%eth0]:1", "has a zone", "no zone"),
    ],
)
def test_errors_say_what_to_do(text: str, problem: str, hint: str) -> None:
    with pytest.raises(EndpointError) as error:
        Endpoint.parse(text)
    assert problem in str(error.value)
    assert hint in error.value.hint


def test_an_ipv4_address_in_ipv6_is_the_ipv4_address() -> None:
    assert str(Endpoint.parse("[::ffff:10.0.0.7]:8500")) == "10.0.0.7:8500"


def test_names_ignore_case_and_the_root_dot() -> None:
    assert Endpoint.parse("TextCNN.Models.:8500") == Endpoint.parse("textcnn.models:8500")
