"""A local HTTP server with the OpenAI chat API."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatEndpoint:
    """Answers chat completions from `script` (statuses and texts), then with `content` of the request."""

    def __init__(self, content: Callable[[dict[str, Any]], str]):
        self.script: list[int | str] = []
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, self.headers["Authorization"], body))
                step = endpoint.script.pop(0) if endpoint.script else None
                status = step if isinstance(step, int) else 200
                text = step if isinstance(step, str) else content(body)
                usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
                message = {"role": "assistant", "content": text}
                reply: Any = {
                    "id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                }  # fmt: skip
                raw = json.dumps(reply if status == 200 else {"error": {"message": "not now"}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                # The client waits as long as the server says.
                self.send_header("retry-after-ms", "10")
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
