"""A real auth_http server for tests, out of the standard library, and nginx's mail proxy, for which it is made.

The server knows no mail: what it answers is what a test says.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.integration.certificates import certificates
from tests.integration.daemon import Daemon
from tests.integration.ports import HOST, free_port, program

Answers = Callable[[Mapping[str, str]], Mapping[str, str]]
"""From the headers of a question (names as they were sent) to those of the answer."""
NGINX_MODULE = Path("/usr/lib/nginx/modules/ngx_mail_module.so")


class AuthServer:
    """An auth_http server in a thread.

    @ivar answers: what it says; may be replaced at any time.
    @ivar questions: the headers of each question, in the order in which they came.
    @ivar first_lines: the first line of each.
    """

    def __init__(self, answers: Answers, *, version: str = "HTTP/1.1", secure: bool = False) -> None:
        """@param version: C{"HTTP/1.0"} closes each connection."""
        self.answers = answers
        self.port = free_port()
        self.questions: list[dict[str, str]] = []
        self.first_lines: list[str] = []
        self.connections = 0
        self._version, self._secure = version, secure
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def uri(self) -> str:
        """Where to ask."""
        return f"http{'s' if self._secure else ''}://{'localhost' if self._secure else HOST}:{self.port}/auth"

    def start(self) -> None:
        """Listen; L{stop} ends it, and it may start again."""
        owner = self

        class Question(BaseHTTPRequestHandler):
            protocol_version = self._version
            timeout = 20.0

            def setup(self) -> None:
                super().setup()
                owner.connections += 1

            def do_GET(self) -> None:
                headers = dict(self.headers.items())
                owner.first_lines.append(self.requestline)
                owner.questions.append(headers)
                self.send_response(200)
                for name, value in owner.answers(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "3")
                self.end_headers()
                self.wfile.write(b"OK\n")

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nobody reads it."""

        self._server = _Quiet((HOST, self.port), Question)
        if self._secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates().certificate, certificates().key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and hang up."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()


class _Quiet(ThreadingHTTPServer):
    """Says nothing of clients that leave; ends its connections with itself."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave whenever they like."""

    def server_close(self) -> None:
        super().server_close()
        for request in list(self._open):
            self.shutdown_request(request)


class Nginx(Daemon):
    """nginx's mail proxy: IMAP, POP3 and SMTP with TLS on connect, and SMTP without login and TLS, as an MX.

    @ivar imap: the port; likewise C{pop3}, C{smtp}, C{mx}.
    """

    name = "nginx"

    def __init__(self, auth: AuthServer) -> None:
        super().__init__()
        self.imap, self.pop3, self.smtp, self.mx = (free_port() for _ in range(4))
        certificates().copy_to(self.folder)
        (self.folder / "nginx.conf").write_text(self._configuration(auth))

    def command(self) -> Sequence[str]:
        errors = str(self.folder / "error.log")
        return [
            program("nginx") or "nginx",
            "-p",
            str(self.folder),
            "-e",
            errors,
            "-c",
            str(self.folder / "nginx.conf"),
        ]

    def listening(self) -> Sequence[int]:
        return self.imap, self.pop3, self.smtp, self.mx

    def _configuration(self, auth: AuthServer) -> str:
        secure = [(self.imap, "imap", ""), (self.pop3, "pop3", ""), (self.smtp, "smtp", "smtp_auth plain login;")]
        servers = "".join(
            f"server {{ listen {HOST}:{port} ssl; protocol {name}; {more} }}\n" for port, name, more in secure
        )
        return f"""
load_module {NGINX_MODULE};
daemon off;
worker_processes 1;
pid {self.folder}/nginx.pid;
error_log {self.folder}/error.log info;
events {{ worker_connections 256; }}
mail {{
  server_name gateway.example;
  ssl_protocols TLSv1.2 TLSv1.3;
  auth_http {HOST}:{auth.port}/auth;
  auth_http_header X-Auth-Key "s3cret key";
  ssl_certificate {self.folder}/server.pem;
  ssl_certificate_key {self.folder}/server.key;
  {servers}
  server {{ listen {HOST}:{self.mx}; protocol smtp; smtp_auth none; }}
}}
"""
