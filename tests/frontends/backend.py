"""A small JSON backend with a login of its own: what a team has today, before there is a gateway.

Access tokens (JWT or opaque), rotating refresh tokens whose second use ends the family, an API that answers 401
without a valid access token, and the front end's files. Prints its origin when it listens.

What tests steer and read is under /_control: `report` tells everything received and every token ever issued.
"""

import argparse
import base64
import hashlib
import hmac
import json
import mimetypes
import secrets
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

USER = {"id": 7, "name": "Grace Hopper", "email": "grace@example.com"}
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Shape:
    """Where a family of front ends expects the endpoints, and what it calls the tokens."""

    login: str
    refresh: str
    refresh_field: str
    logout: tuple[str, str]
    user: str | None
    access_name: str
    refresh_name: str
    # How long a spent refresh token still gets its successor: for clients that refresh several times at once.
    leeway: float = 0


SHAPES = {
    "nuxt": Shape("/login", "/refresh_tokens", "token", ("DELETE", "/logout"), "/me", "token", "refresh_token"),
    "sneat": Shape(
        "/auth/login", "/auth/refresh-token", "refreshToken", ("POST", "/auth/logout"), None, "accessToken", "refreshToken", 10
    ),
    "vuexy": Shape("/jwt/login", "/jwt/refresh-token", "refreshToken", ("POST", "/jwt/logout"), None, "accessToken", "refreshToken"),
    "axios": Shape("/auth/login", "/auth/refresh", "refreshToken", ("POST", "/auth/logout"), None, "access_token", "refresh_token"),
}


class Tokens:
    """Every token issued, and which of them are good for something. Not thread-safe: `Backend.lock` is held."""

    def __init__(self, kind: str, life: float) -> None:
        self.kind = kind
        self.life = life
        self.key = secrets.token_bytes(32)
        # Access token -> (end of its life, family), as long as it is accepted.
        self.access: dict[str, tuple[float, str]] = {}
        # Refresh token -> family, as long as it can be used.
        self.refresh: dict[str, str] = {}
        # Spent refresh token -> (when, family, its successors).
        self.spent: dict[str, tuple[float, str, tuple[str, str]]] = {}
        self.issued: list[str] = []

    def issue(self, family: str | None = None) -> tuple[str, str]:
        family = family or secrets.token_hex(4)
        access, refresh = self.access_token(), secrets.token_urlsafe(32)
        self.access[access] = (time.time() + self.life, family)
        self.refresh[refresh] = family
        self.issued += [access, refresh]
        return access, refresh

    def rotate(self, refresh: object, leeway: float) -> tuple[str, str] | None:
        """The successors of `refresh`. A spent one beyond its leeway ends the family it is of."""
        if not isinstance(refresh, str):
            return None
        if refresh in self.spent:
            when, family, successors = self.spent[refresh]
            if time.time() - when <= leeway:
                return successors
            self.end(family)
            return None
        family = self.refresh.pop(refresh, None)
        if family is None:
            return None
        successors = self.issue(family)
        self.spent[refresh] = (time.time(), family, successors)
        return successors

    def family(self, access: str | None) -> str | None:
        """The family of an access token that is accepted now."""
        expires, family = self.access.get(access or "", (0, None))
        return family if time.time() < expires else None

    def end(self, family: str) -> None:
        self.access = {token: entry for token, entry in self.access.items() if entry[1] != family}
        self.refresh = {token: of for token, of in self.refresh.items() if of != family}

    def access_token(self) -> str:
        if self.kind == "opaque":
            return secrets.token_urlsafe(32)
        now = int(time.time())
        claims = {"sub": str(USER["id"]), "iat": now, "exp": now + int(self.life), "jti": secrets.token_hex(8)}
        signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims)}"
        return f"{signed}.{base64url(hmac.digest(self.key, signed.encode(), hashlib.sha256))}"


class Backend:
    def __init__(self, shape: Shape, tokens: Tokens, files: list[Path]) -> None:
        self.shape = shape
        self.tokens = tokens
        self.files = files
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.tokens = Tokens(self.tokens.kind, self.tokens.life)
        self.items = [{"id": 1, "name": "anchor"}, {"id": 2, "name": "lantern"}]
        self.requests: list[dict] = []

    def answer(self, method: str, path: str, headers: list[tuple[str, str]], body: str) -> tuple[int, object]:
        """Status and JSON, or status and the file to send."""
        if path.startswith("/_control/"):
            return self.control(method, path.removeprefix("/_control/"))
        status, answer = self.api(method, path, headers, body)
        self.requests.append({"method": method, "path": path, "headers": headers, "body": body, "status": status})
        return status, answer

    def api(self, method: str, path: str, headers: list[tuple[str, str]], body: str) -> tuple[int, object]:
        shape = self.shape
        access = bearer(headers)
        match (method, path):
            case ("POST", shape.login):
                sent = parsed(body)
                name = sent.get("email") or sent.get("username")
                if name != USER["email"] or sent.get("password") != PASSWORD:
                    return 401, {"message": "Wrong name or password."}
                return 200, {**self.pair(self.tokens.issue()), "user": USER}
            case ("POST", shape.refresh):
                pair = self.tokens.rotate(parsed(body).get(shape.refresh_field), shape.leeway)
                return (200, self.pair(pair)) if pair else (401, {"message": "Refresh token refused."})
            case shape.logout:
                if family := self.tokens.family(access):
                    self.tokens.end(family)
                return 204, None
            case ("GET", shape.user):
                return self.for_users(access, 200, USER)
            case ("GET", "/api/items"):
                return self.for_users(access, 200, {"items": self.items})
            case ("POST", "/api/items"):
                status, answer = self.for_users(access, 201, None)
                if status == 201:
                    self.items.append({"id": len(self.items) + 1, "name": parsed(body).get("name")})
                return status, answer
            case ("GET", _):
                return self.file(path)
        return 404, {"message": "No such thing."}

    def control(self, method: str, what: str) -> tuple[int, object]:
        match (method, what):
            case ("GET", "report"):
                return 200, {"requests": self.requests, "tokens": self.tokens.issued}
            case ("POST", "forget"):
                self.requests = []
            case ("POST", "reset"):
                self.reset()
            case ("POST", "expire"):
                self.tokens.access.clear()
            case ("POST", "revoke"):
                self.tokens.access.clear()
                self.tokens.refresh.clear()
            case _:
                return 404, None
        return 204, None

    def for_users(self, access: str | None, status: int, answer: object) -> tuple[int, object]:
        if self.tokens.family(access) is None:
            return 401, {"message": "Access token missing, expired or revoked."}
        return status, answer

    def pair(self, tokens: tuple[str, str]) -> dict[str, str]:
        return dict(zip((self.shape.access_name, self.shape.refresh_name), tokens))

    def file(self, path: str) -> tuple[int, object]:
        """The front end's file, or its page: its router knows more paths than there are files."""
        for name in (path.lstrip("/"), "index.html"):
            for directory in self.files:
                file = (directory / name).resolve()
                if file.is_relative_to(directory) and file.is_file():
                    return 200, file
        return 404, {"message": "No such file."}


def handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            with backend.lock:
                status, answer = backend.answer(self.command, self.path.partition("?")[0], self.headers.items(), body)
            if isinstance(answer, Path):
                content, kind = answer.read_bytes(), mimetypes.guess_type(answer)[0] or "application/octet-stream"
            else:
                content, kind = b"" if status == 204 else json.dumps(answer).encode(), "application/json"
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = serve

        def log_message(self, format: str, *values: object) -> None:
            print(format % values, flush=True)

    return Handler


def bearer(headers: list[tuple[str, str]]) -> str | None:
    for name, value in headers:
        if name.lower() == "authorization" and value.startswith("Bearer "):
            return value.removeprefix("Bearer ")
    return None


def parsed(body: str) -> dict:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encoded(value: dict) -> str:
    return base64url(json.dumps(value, separators=(",", ":")).encode())


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--shape", choices=SHAPES, required=True)
    arguments.add_argument("--files", type=Path, action="append", required=True, help="a directory of the front end; the first that has a file gives it")
    arguments.add_argument("--tokens", choices=["jwt", "opaque"], default="jwt")
    arguments.add_argument("--life", type=float, default=3600, help="of an access token, in seconds")
    options = arguments.parse_args()
    files = [directory.resolve() for directory in options.files]
    backend = Backend(SHAPES[options.shape], Tokens(options.tokens, options.life), files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(backend))
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
