"""What `bench battery` does below HTTP: headers and bodies without end, clients that are slow, silent or gone.

Every attack returns what it saw, and raises AssertionError when the server let it go on for too long.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from minivllm.bench.serve_client import Target

MOST_BYTES = 64 * 2**20  # no attack may be listened to for longer than that
PATIENCE = 60.0  # seconds in which the server must have hung up on a client that is too slow
MANY_CONNECTIONS = 400


def connect(target: Target) -> socket.socket:
    """A plain connection to the server."""
    parts = urlsplit(target.base_url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=PATIENCE)


def head(target: Target, length: int | None, *more: str) -> bytes:
    """Request line and headers of a completion."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", size, *more]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def status_of(answer: bytes) -> str:
    """The status of an answer, or that there was none."""
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"


def receive(sock: socket.socket) -> str:
    """The status of what comes; "closed" if the server hung up instead."""
    try:
        return status_of(sock.recv(4096))
    except ConnectionError:
        return "closed"


def flood(target: Target, first: bytes, piece: bytes) -> str:
    """Send `piece` again and again until the server answers or hangs up."""
    num_sent = 0
    with connect(target) as sock:
        sock.sendall(first)
        try:
            while num_sent < MOST_BYTES:
                sock.sendall(piece)
                num_sent += len(piece)
                sock.setblocking(False)
                try:
                    if answer := sock.recv(4096):
                        return status_of(answer)
                    return "closed"
                except BlockingIOError:
                    pass
                finally:
                    sock.settimeout(PATIENCE)
        except ConnectionError:
            return "closed"
    raise AssertionError(f"{num_sent} bytes were taken")


def headers_without_end(target: Target) -> str:
    """One header after the other, for ever."""
    return flood(target, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n", b"A: " + b"x" * 1000 + b"\r\n")


def a_header_without_end(target: Target) -> str:
    """A header that never stops."""
    return flood(target, b"GET /health HTTP/1.1\r\nHost: x\r\nA: ", b"x" * 4096)


def a_body_without_end(target: Target) -> str:
    """Chunk after chunk."""
    return flood(target, head(target, None), b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def thousands_of_headers(target: Target) -> str:
    """More headers than anybody needs."""
    with connect(target) as sock:
        sock.sendall(head(target, 2, *(f"X-{i}: y" for i in range(5000))) + b"{}")
        return receive(sock)


def lengths_that_lie(target: Target) -> str:
    """Lengths that are none, and one that promises more than comes."""
    seen = []
    for length in ("99999999999999999999", "-5", "abc", "1e3", "5, 6"):
        with connect(target) as sock:
            request = f"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{}}"
            sock.sendall(request.encode())
            seen.append(receive(sock))
    with connect(target) as sock:
        sock.sendall(head(target, 1000) + b'{"prompt"')
    return " ".join(dict.fromkeys(seen))


def not_http(target: Target) -> str:
    """Noise, a TLS greeting, and a request to become a WebSocket."""
    seen = []
    upgrade = (
        b"GET /v1/completions HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for noise in (b"\x00" * 64 + b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", upgrade):
        with connect(target) as sock:
            sock.sendall(noise)
            seen.append(receive(sock))
    return " ".join(dict.fromkeys(seen))


def slow_headers(target: Target) -> str:
    """A byte of a header every fifth of a second, until the server has had enough."""
    deadline = time.monotonic() + PATIENCE
    with connect(target) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nA: ")
        sock.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                sock.sendall(b"x")
                return status_of(sock.recv(4096))
            except TimeoutError:
                continue
            except ConnectionError:
                return "closed"
    raise AssertionError("slow headers were waited for")


def slow_body(target: Target) -> str:
    """A body that stops in the middle."""
    with connect(target) as sock:
        sock.sendall(head(target, 1000) + b'{"prompt": "a')
        return receive(sock)


def silent_crowd(target: Target) -> str:
    """Hundreds of connections that say nothing; a normal request must still be answered beside them."""
    crowd = [connect(target) for _ in range(MANY_CONNECTIONS)]
    try:
        with connect(target) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            return receive(sock)
    finally:
        for one in crowd:
            one.close()


def never_reads(target: Target) -> str:
    """Asks for much and reads nothing, then leaves."""
    body = {"prompt": "a", "max_tokens": 400, "n": 8, "temperature": 1, "logprobs": 20, "stream": True}
    text = json.dumps({**body, "ignore_eos": True}).encode()
    with connect(target) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(head(target, len(text)) + text)
        time.sleep(5)
    return "left"


def pipelined(target: Target) -> str:
    """A hundred requests at once on one connection, and gone before the first answer."""
    text = json.dumps({"prompt": "a", "max_tokens": 50}).encode()
    with connect(target) as sock:
        sock.sendall((head(target, len(text)) + text) * 100)
    return "left"


def random_bytes(target: Target) -> str:
    """Bodies of nothing but noise."""
    seen = []
    for size in (1, 10, 100, 1000, 100_000):
        noise = os.urandom(size)
        with connect(target) as sock:
            sock.sendall(head(target, size) + noise)
            seen.append(receive(sock))
    return " ".join(dict.fromkeys(seen))


ATTACKS: tuple[Callable[[Target], str], ...] = (
    *(headers_without_end, a_header_without_end, a_body_without_end, thousands_of_headers),
    *(lengths_that_lie, not_http, random_bytes, silent_crowd, pipelined, never_reads),
    *(slow_headers, slow_body),
)
