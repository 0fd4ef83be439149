"""A real endpoint of the S3 protocol in this process, and its troubles."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from uuid import uuid4

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYTESTSECRET"


@dataclass
class Fault:
    """Answer `status` to `times` requests whose method and path match; `after` they were carried out, or instead."""

    method: str
    path: str
    status: int
    times: int = 1
    after: bool = False
    met: int = 0


@dataclass
class Store:
    """An S3 endpoint. `requests`: method and path of each, in order."""

    endpoint: str
    bucket: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/archive"

    def environment(self) -> dict[str, str]:
        """What a process needs to use it: where Amazon's own tools look, nowhere else."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "2",
            "DRIFTLINE_S3_ENDPOINT": self.endpoint,
            "DRIFTLINE_ARCHIVE_URL": self.url,
        }

    def fail(self, method: str, path: str, status: int = 403, *, times: int = 1, after: bool = False) -> Fault:
        """From now on, refuse requests."""
        fault = Fault(method, path, status, times, after)
        self.faults.append(fault)
        return fault


def _faulty(app: Callable[..., Iterable[bytes]], store: Store) -> Callable[..., Iterable[bytes]]:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        store.requests.append((method, path))
        for fault in store.faults:
            if fault.times > fault.met and fault.method == method and re.search(fault.path, path):
                fault.met += 1
                if fault.after:
                    list(app(environ, lambda *_: None))
                else:
                    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                code = {403: "AccessDenied", 503: "SlowDown"}.get(fault.status, "InternalError")
                body = f"<Error><Code>{code}</Code><Message>so it was told</Message></Error>".encode()
                start_response(
                    f"{fault.status} {HTTPStatus(fault.status).phrase}",
                    [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))],
                )
                return [body]
        return app(environ, start_response)

    return answer


def serve() -> Iterator[Store]:
    """Serve the S3 protocol on a free port until the generator is closed; every `Store` has a bucket of its own."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    store = Store("", f"b-{uuid4().hex[:12]}")
    app = _faulty(DomainDispatcherApplication(create_backend_app), store)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=store.bucket)
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
