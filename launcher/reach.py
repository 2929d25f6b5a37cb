"""Whether anything listens at the address of a running Ray cluster: Ray itself asks a dead one for a minute."""

import os
import socket
from urllib.parse import urlsplit

from conf.errors import BadSpec

#: How long a head may take to answer; one behind a firewall that drops everything never does.
ANSWER_S = 5.0
CURE = "start it (ray start --head), or leave cluster.address out and Convoy starts its own"


def check_answers(address: str) -> None:
    """Raise BadSpec where nothing accepts a connection at `address` within ANSWER_S.

    `auto` means what RAY_ADDRESS says; without that Ray finds a living cluster on this machine by itself.
    """
    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if (where := host_and_port(named)) is None:
        return  # for Ray to understand, or to refuse
    try:
        socket.create_connection(where, ANSWER_S).close()
    except OSError as error:
        there = "there" if named == address else f"at RAY_ADDRESS={named}"
        law = f"nothing answers {there}: {error.strerror or error}"
        raise BadSpec.of("cluster.address", address, law, CURE) from error


def host_and_port(address: str) -> tuple[str, int] | None:
    """Of "host:port", "[ip]:port" or "ray://host:port"; None for anything else."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None
    except ValueError:
        return None
