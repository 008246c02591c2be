"""A stand-in for the hub on this machine, which takes uploads as huggingface_hub sends them: not a test file itself.

It knows what an upload asks: make a repository, which files go how, the large ones in pieces of their own, a commit.
The hub itself was never asked.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LARGE = (".safetensors", ".gguf")


class Hub:
    """files: what was committed, by repository and path; made: what was said of each new repository; keys: those shown.

    refuse: a status with which every request is answered.
    """

    def __init__(self):
        self.files, self.made, self.keys, self.refuse = {}, {}, set(), 0
        self._pieces = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.answer(outer.post)

            def do_PUT(self):
                self.answer(outer.put)

            def answer(self, act):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.keys.add(self.headers.get("Authorization"))
                status, content = (outer.refuse, {"error": "no"}) if outer.refuse else (200, act(self.path, body))
                raw = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def post(self, address, body):
        path = urlsplit(address).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.made[name] = asked
            return {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            modes = {file["path"]: file["path"].endswith(LARGE) for file in json.loads(body)["files"]}
            return {"files": [
                {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                for name, large in modes.items()
            ]}  # fmt: skip
        if path.endswith("/info/lfs/objects/batch"):
            return {"transfer": "basic", "objects": [
                {**piece, "actions": {"upload": {"href": f"{self.url}/pieces/{piece['oid']}"}}}
                for piece in json.loads(body)["objects"]
            ]}  # fmt: skip
        if path.endswith("/commit/main"):
            return self._commit("/".join(path.split("/")[3:5]), body)
        raise AssertionError(f"nobody sends a POST to {path}")

    def put(self, address, body):
        self._pieces[address.rpartition("/")[2]] = body
        return {}

    def _commit(self, name, body):
        files = self.files.setdefault(name, {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self._pieces[value["oid"]]
        return {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1"}
