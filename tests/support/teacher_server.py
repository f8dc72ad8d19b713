"""A teacher on loopback that speaks /v1/chat/completions: what it says follows from the chat and the seed alone.

    python teacher_server.py LOG [--delay S] [--right PERCENT] [--troubles 429,500,drop,garbage] [--key KEY] …

It prints its port. It answers sums ("What is 17 + 25?") and functions ("Write f(x) = x * 3."), rightly in PERCENT of the
samples. Words in the prompt ask for more: `[wrong]` never right, `[think]` and `[reason]` thinking apart from the content,
`[cut]` ends at its token limit, `[refuse]` is answered with 400, `[hang]` makes a program that never ends. Each question goes
through the troubles, one a request, before it is answered. LOG gets a line when a request comes, and one when its answer
is on its way: {"event", "at", "id", "seed", "flying", …}; the id stands in the answer's text too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Teacher(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.options = options
        self.lock = threading.Lock()
        self.flying = 0
        self.seen: dict[str, int] = {}

    def log(self, event: str, **facts: Any) -> None:
        with self.lock:
            line = {"event": event, "at": time.monotonic(), "flying": self.flying, **facts}
            with Path(self.options.log).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Teacher

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ident = hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).hexdigest()[:16]
        with self.server.lock:
            self.server.flying += 1
            self.server.seen[ident] = count = self.server.seen.get(ident, 0) + 1
        self.server.log("asked", id=ident, seed=body.get("seed"), body=body, key=self.headers.get("Authorization", ""))
        self.respond(body, ident, count)

    def respond(self, body: dict[str, Any], ident: str, count: int) -> None:
        options, prompt = self.server.options, body["messages"][-1]["content"]
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        troubles = options.troubles.split(",") if options.troubles else []
        if options.key and key != options.key:
            self.error(401, f"Incorrect API key provided: {key}")
        elif self.path != "/v1/chat/completions" or body["model"] != "teacher":
            self.error(404, f"The model {body['model']} does not exist")
        elif "[refuse]" in prompt:
            self.error(400, "the prompt is too long")
        elif options.forever or count <= len(troubles):
            self.trouble(troubles[(count - 1) % len(troubles)])
        else:
            time.sleep(options.delay * (0.5 + int(ident[:4], 16) / 65536))
            answer = json.dumps(self.answer(body, prompt, ident)).encode()
            self.server.log("answered", id=ident)
            self.reply(200, answer)

    def trouble(self, name: str) -> None:
        if name == "drop":
            self.landed()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif name == "garbage":
            self.reply(200, b'{"choices": [{"mess')
        elif name == "empty":
            self.reply(200, b'{"error": {"message": "overloaded"}}')
        else:
            self.error(int(name), "later", **({"Retry-After": str(self.server.options.after)} if name == "429" else {}))

    def answer(self, body: dict[str, Any], prompt: str, ident: str) -> dict[str, Any]:
        options, number = self.server.options, int(ident, 16)
        right = "[wrong]" not in prompt and number % 100 < options.right
        words = " ".join(["so"] * (number // 100 % 20))  # answers of different lengths
        if found := re.search(r"(\d+) \+ (\d+)", prompt):
            value = int(found[1]) + int(found[2]) + (0 if right else 1 + number % 7)
            content = f"We add {found[1]} and {found[2]}; {words} (id {ident}).\nThe answer is \\boxed{{{value}}}."
        else:
            factor = re.search(r"x \* (\d+)", prompt)
            loop = "    while True: pass\n" if "[hang]" in prompt else ""
            line = f"    return x * {factor[1] if factor else 1} {'' if right else '+ 1'}"
            content = f"It is short; {words} (id {ident}).\n```python\ndef f(x):\n{loop}{line}\n```"
        message: dict[str, Any] = {"role": "assistant", "content": content}
        for word, field in (("[think]", "reasoning_content"), ("[reason]", "reasoning")):
            if word in prompt:
                message[field] = f"Let me think of {ident}."
        usage = {"prompt_tokens": options.tokens_in, "completion_tokens": options.tokens_out}
        return {
            "id": ident, "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "length" if "[cut]" in prompt else "stop"}],
        }  # fmt: skip

    def error(self, status: int, message: str, **headers: str) -> None:
        self.reply(status, json.dumps({"error": {"message": message, "type": "error"}}).encode(), **headers)

    def landed(self) -> None:
        """Before the client can know: what it sends next is not beside this request."""
        with self.server.lock:
            self.server.flying -= 1

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.landed()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--delay", type=float, default=0.0, help="mean seconds before an answer")
    parser.add_argument("--right", type=int, default=60, help="per cent of the samples")
    parser.add_argument("--troubles", default="")
    parser.add_argument("--forever", action="store_true", help="troubles alone, no answer ever")
    parser.add_argument("--after", type=float, default=0.2, help="seconds of Retry-After")
    parser.add_argument("--key", default="", help="the only key that is taken")
    parser.add_argument("--tokens-in", type=int, default=20)
    parser.add_argument("--tokens-out", type=int, default=100)
    server = Teacher(parser.parse_args())
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
