"""Waiting for the first worker's port."""

import json
import socket
import threading
import time

from trainer.leader import wait_for_leader


def environment(rank: int, port: int) -> dict[str, str]:
    cluster = {"worker": [f"127.0.0.1:{port}", "127.0.0.1:1"]}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_others_wait_until_the_first_listens() -> None:
    port, began = free_port(), time.monotonic()
    listening: list[float] = []
    listener = socket.socket()

    def listen() -> None:
        time.sleep(0.3)
        listening.append(time.monotonic())
        listener.bind(("127.0.0.1", port))
        listener.listen()

    thread = threading.Thread(target=listen)
    thread.start()
    assert wait_for_leader(environment(1, port))
    assert listening and listening[0] <= time.monotonic() and listening[0] - began >= 0.3
    thread.join()
    listener.close()


def test_the_first_waits_for_nobody_and_nobody_for_ever() -> None:
    port = free_port()
    assert wait_for_leader(environment(0, port)) and wait_for_leader({})
    assert not wait_for_leader(environment(1, port), longest_s=0.05)
