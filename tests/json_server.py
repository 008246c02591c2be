"""A server on this machine that takes and gives JSON, and can be ended and started again: not a test file itself."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JsonServer:
    """answer: (body, number of the request) → (status, body or bytes). requests: path, body and key of each.

    location: of a redirection; pause: seconds between two bytes of an answer.
    """

    def __init__(self, answer):
        self.answer, self.requests = answer, []
        self.location, self.pause = "", 0.0
        self._lock = threading.Lock()
        self._server, self._port = None, 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        """Listen, at the port of the first time."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append({"path": self.path, "body": None, "key": self.headers.get("Authorization")})
                self.send_error(405)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append({"path": self.path, "body": body, "key": self.headers.get("Authorization")})
                status, content = outer.answer(body, number)
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(raw)))
                    if outer.location:
                        self.send_header("Location", outer.location)
                    self.end_headers()
                    for start in range(0, len(raw), 1 if outer.pause else max(len(raw), 1)):
                        self.wfile.write(raw[start : start + 1] if outer.pause else raw)
                        time.sleep(outer.pause)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
