"""Ports that nobody listens on."""

import socket


def free_ports(number: int) -> list[int]:
    """So many ports of 127.0.0.1, all different, that nobody listens on."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
