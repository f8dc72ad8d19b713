"""A server on loopback that speaks Piston's API and runs programs in real subprocesses, with faults on demand.

The schema, the refusals and the way a run ends are those of Piston's `v2.js` and `job.js`. It has no walls.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Piston:
    """Its configuration, what it was sent, and the faults of its next answers to `execute`."""

    runtimes: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"language": "bash", "version": "5.2.0", "aliases": ["sh"]},
            {"language": "python", "version": "2.7.18", "aliases": ["py"]},
            {"language": "python", "version": "3.9.4", "aliases": ["py3"]},
            {"language": "python", "version": "3.12.0", "aliases": ["py3"]},
        ]
    )
    most: dict[str, float] = field(
        default_factory=lambda: {"run_timeout": 30_000, "run_cpu_time": 30_000, "run_memory_limit": 2**31}
    )
    output_max: int = 2**20
    old: bool = False  # without `status`, `message` and CPU limits, as before isolate
    faults: deque[Any] = field(default_factory=deque)  # a status, bytes of an answer, "drop", or seconds to wait
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Piston:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"piston": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Die: no connection is taken any more."""
        self.server.shutdown()
        self.server.server_close()

    def refused(self, body: dict[str, Any]) -> str:
        for name in ("language", "version"):
            if not isinstance(body.get(name), str) or not body[name]:
                return f"{name} is required as a string"
        if not isinstance(body.get("files"), list):
            return "files is required as an array"
        if not any(r["language"] == body["language"] and r["version"] == body["version"] for r in self.runtimes):
            return f"{body['language']}-{body['version']} runtime is unknown"
        for name, most in self.most.items():
            value = body.get(name)
            if value is not None and (not isinstance(value, (int, float)) or value > most):
                return f"{name} cannot exceed the configured limit of {most:g}"
        return ""

    def execute(self, body: dict[str, Any]) -> dict[str, Any]:
        stdin = body.get("stdin", "")
        stdin += "" if stdin.endswith("\n") else "\n"
        cpu, wall = body.get("run_cpu_time", 3_000) / 1_000, body.get("run_timeout", 3_000) / 1_000
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            for file in body["files"]:
                (Path(folder) / file["name"]).write_text(file["content"], "utf-8", errors="replace")
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, body["files"][0]["name"]], cwd=folder, stdin=subprocess.PIPE, stdout=out, stderr=err,
                env={"HOME": "/tmp", "PISTON_LANGUAGE": "python"}, start_new_session=True,
            )  # fmt: skip
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2 * self.output_max, 2 * self.output_max))
            threading.Thread(target=_feed, args=(process, stdin.encode()), daemon=True).start()
            status, message, used = _watch(process, started, wall, None if self.old else cpu)
            streams = []
            for file in (out, err):
                file.seek(0)
                streams.append(file.read().decode(errors="replace"))
        code = process.returncode
        if len(streams[0]) > self.output_max:
            status, message, streams[0] = "OL", "stdout length exceeded", streams[0][: self.output_max]
        name = signal.Signals(-code).name if code < 0 else None
        run = {"stdout": streams[0], "stderr": streams[1][: self.output_max], "output": "".join(streams)}
        run |= {"code": code if code >= 0 else None, "signal": "SIGKILL" if status in ("TO", "OL") else name}
        if not self.old:
            status = status or ("RE" if code > 0 else "SG" if code < 0 else None)
            run |= {"status": status, "message": message, "cpu_time": used * 1_000, "memory": 10**7}
            run["wall_time"] = (time.monotonic() - started) * 1_000
        return {"language": "python", "version": body["version"], "run": run}


def _feed(process: subprocess.Popen[bytes], content: bytes) -> None:
    try:
        process.stdin.write(content)
        process.stdin.close()
    except OSError:  # it ended without reading
        pass


def _watch(
    process: subprocess.Popen[bytes], started: float, wall: float, cpu: float | None
) -> tuple[str | None, str | None, float]:
    used = 0.0
    while process.poll() is None:
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
        over_wall = time.monotonic() - started > wall
        if over_wall or (cpu is not None and used > cpu):
            process.kill()
            process.wait()
            return "TO", "Time limit exceeded (wall clock)" if over_wall else "Time limit exceeded", used
        time.sleep(0.005)
    return None, None, used


class _Handler(BaseHTTPRequestHandler):
    piston: Piston
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/api/v2/runtimes":
            self._send(200, json.dumps(self.piston.runtimes).encode())
        else:
            self._send(404, b'{"message": "Not Found"}')

    def do_POST(self) -> None:
        piston = self.piston
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/api/v2/execute":
            return self._send(404, b'{"message": "Not Found"}')
        if not self.headers["Content-Type"].startswith("application/json"):
            return self._send(415, b'{"message": "requests must be of type application/json"}')
        body = json.loads(content)
        with piston.lock:
            piston.requests.append(body)
            piston.at_once += 1
            piston.most_at_once = max(piston.most_at_once, piston.at_once)
            fault = piston.faults.popleft() if piston.faults else None
        try:
            if isinstance(fault, float):
                time.sleep(fault)
            elif isinstance(fault, int):
                return self._send(fault, b"")
            elif isinstance(fault, bytes):
                return self._send(200, fault)
            elif fault == "drop":
                self.close_connection = True
                return self.connection.close()
            refused = piston.refused(body)
            if refused:
                return self._send(400, json.dumps({"message": refused}).encode())
            return self._send(200, json.dumps(piston.execute(body)).encode())
        finally:
            with piston.lock:
                piston.at_once -= 1

    def _send(self, status: int, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the client is gone
            pass

    def log_message(self, *arguments: object) -> None: ...


if __name__ == "__main__":
    with Piston() as found:
        print(found.url, flush=True)
        signal.pause()
