"""A webhook receiver for tests: answers, redirects, hangs or drips, and remembers what it got."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Receiver:
    """`behaviour`: an HTTP status, or ``hang`` (never answers), ``drip`` (a byte at a time, for ever)."""

    behaviour: str = "204"
    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    tls: ssl.SSLContext | None = None

    def serve(self, listener: socket.socket) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as stream:
                self._exchange(stream)
        except OSError:
            return

    def _exchange(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            reader.readline()
            headers: dict[str, str] = {}
            while (line := reader.readline().strip()) != b"":
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = reader.read(int(headers.get("content-length", "0")))
        self.requests.append((headers, body))
        if self.behaviour == "hang":
            self.stopped.wait(60)
        elif self.behaviour == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nx-slow: " + b"a" * 10_000:
                if self.stopped.wait(0.05):
                    return
                connection.sendall(bytes([byte]))
        else:
            extra = f"location: http://127.0.0.1:{self.port}/elsewhere\r\n" if self.behaviour.startswith("3") else ""
            answer = f"HTTP/1.1 {self.behaviour} X\r\n{extra}content-length: 0\r\nconnection: close\r\n\r\n"
            connection.sendall(answer.encode())


@contextmanager
def receiving(behaviour: str = "204", *, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Listen on a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = Receiver(behaviour, listener.getsockname()[1], tls=tls)
        thread = threading.Thread(target=receiver.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.stopped.set()
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            thread.join(5)
