"""A reverse proxy for tests that breaks chosen requests: the object store behind it stays the real one.

`faults` is a list; each request takes the first fault that fits it and has uses left.
"""

import http.client
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP_HEADERS = {"connection", "content-length", "transfer-encoding"}


@dataclass
class Fault:
    """What goes wrong with requests of `method` whose path and query match `path`."""

    kind: str  # status | reset | cut | flip | flip_sent | lose_reply | stall
    method: str
    path: str = ""
    status: int = 503
    uses: int = 1
    skip: int = 0  # let so many fitting requests pass first

    def takes(self, method: str, path: str) -> bool:
        """Whether this request suffers the fault; counts it if so."""
        if self.uses == 0 or method != self.method or not re.search(self.path, path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.uses -= 1
        return True


class FaultProxy(ThreadingHTTPServer):
    """Listens on a free loopback port and passes everything on to `upstream`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.sent_bytes: list[tuple[str, int]] = []  # path and length of every body that a client sent
        self.in_flight = self.most_in_flight = 0
        self.company = 0  # a download waits a second for so many requests side by side
        self.released = threading.Event()  # until then, stalled answers do not come
        self.lock = threading.Lock()
        self.arrived = threading.Condition(self.lock)

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The fault that this request suffers."""
        with self.lock:
            self.seen.append(f"{method} {path}")
            return next((fault for fault in self.faults if fault.takes(method, path)), None)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken connections are this server's trade."""


@contextmanager
def running_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy that serves in a thread until the end of the block."""
    proxy = FaultProxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def handle_request(self) -> None:
        """Pass the request on, or break it."""
        body = self._body()
        with self.server.lock:
            if body:
                self.server.sent_bytes.append((self.path, len(body)))
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
            self.server.arrived.notify_all()
            if "alt=media" in self.path:
                self.server.arrived.wait_for(lambda: self.server.most_in_flight >= self.server.company, timeout=1)
        try:
            self._pass_on_or_break(body)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def _pass_on_or_break(self, body: bytes) -> None:
        fault = self.server.fault_for(self.command, self.path)
        kind = fault.kind if fault else None
        if fault and kind == "status":
            self._answer(fault.status, [("Content-Type", "application/json")], b'{"error": {"message": "injected"}}')
        elif kind == "reset":
            self._reset()
        else:
            status, headers, answer = self._upstream(_flipped(body) if kind == "flip_sent" else body)
            if kind == "lose_reply":
                self._reset()
            elif kind == "cut":
                self._answer(status, headers, answer[: len(answer) // 2], promised=len(answer))
            elif kind == "flip":
                self._answer(status, headers, _flipped(answer))
            elif kind == "stall":
                self.server.released.wait(60)
                self._reset()
            else:
                self._answer(status, headers, answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_request

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}
        with closing(http.client.HTTPConnection(self.server.upstream, timeout=60)) as connection:
            connection.request(self.command, self.path, body, {**sent, "Content-Length": str(len(body))})
            response = connection.getresponse()
            headers, answer = response.getheaders(), response.read()
        here = self.server.url.removeprefix("http://")  # an upload's Location leads through the proxy as well
        kept = [(n, v.replace(self.server.upstream, here)) for n, v in headers if n.lower() not in _HOP_HEADERS]
        return response.status, kept, answer

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, promised: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = self.close_connection or promised is not None

    def _reset(self) -> None:
        """Close so that the client gets a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _flipped(data: bytes) -> bytes:
    """One bit in the middle changed: in an upload of several parts that is the content."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
