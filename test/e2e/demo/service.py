"""The demo's service (main.go) on Python's own server and client."""

import http.client
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, code, text):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print("served", self.command, self.path, code, flush=True)

    def do_POST(self):
        self.body()
        self.answer(201, '{"made":true}')

    def do_GET(self):
        if self.path.startswith("/items/"):
            self.answer(200, '{"item":"a thing"}')
        elif self.path == "/fail":
            self.answer(500, "broken")
        elif self.path == "/slow":
            time.sleep(0.05)
            self.answer(200, "at last")
        elif self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(5):
                part = b"chunk " * 20
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                time.sleep(0.002)
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/chain":
            c = http.client.HTTPConnection(os.environ["NEXT"], timeout=10)
            c.request("GET", "/items/7")
            text = c.getresponse().read().decode()
            c.close()
            self.answer(200, text)
        else:
            self.answer(404, "no such thing")

    def log_message(self, *args):
        pass


ThreadingHTTPServer(("", 8080), Handler).serve_forever()
