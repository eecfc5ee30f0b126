"""The addresses that stand for very many instances."""

from __future__ import annotations

import ipaddress

from benchmarks.push import Shape, address, node_file


def test_every_instance_is_another_address_of_loopback() -> None:
    hosts = [address(number).rpartition(":")[0] for number in range(0, 260_000, 7)]
    assert len(set(hosts)) == len(hosts)
    assert all(ipaddress.ip_address(host).is_loopback for host in hosts)


def test_a_node_file_has_every_task_with_its_own_instances() -> None:
    lines = node_file(Shape(3, 4, "none"), 10).splitlines()
    assert [line.partition("=")[0] for line in lines] == ["1", "2", "3"]
    hosts = [host for line in lines for host in line.split(",")[1:]]
    assert len(hosts) == len(set(hosts)) == 12
    assert hosts[0] == address(10)
