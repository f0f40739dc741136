"""What the servers of this package share: who may ask, and an end in good order."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from lwd.config import require
from lwd.errors import LWDError

try:
    from aiohttp import web
except ImportError as error:
    raise LWDError(f'aiohttp is not installed ({error}): run  pip install "latent-weight-diffusion[serve]"') from None

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATIENCE = 10.0  # seconds for what is under way when a server is told to end


def loopback(host: str | None) -> bool:
    """Is this a name of this computer that no other one can reach?"""
    with suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return host == "localhost"


def guard(token: str) -> Any:
    """A middleware that lets in who knows the token; where there is none, who names this computer, which a page of a browser that was
    tricked into coming here does not. No page from elsewhere gets in. `/healthz` is open to all."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and request.path != "/healthz" and not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
            raise web.HTTPUnauthorized(text="a token is needed: the header Authorization: Bearer TOKEN")
        origin, host = urlsplit(request.headers.get("Origin", "")).netloc, urlsplit(f"//{request.host}")
        if ("Origin" in request.headers and origin != host.netloc) or not (token or loopback(host.hostname)):
            raise web.HTTPForbidden(text="this server does not answer pages from elsewhere")
        return await handler(request)

    return middleware


def serve(app: web.Application, host: str, port: int, token: str, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, then finishes what is under way. `ready` is told the address.

    Raises:
        LWDError: an address that others can reach, without a token; or one that cannot be had.
    """
    require(loopback(host) or bool(token), f"others can reach {host}: a token is needed, in a file (--token-file) or in LWD_TOKEN")
    require(0 <= port < 1 << 16, f"a port is a number from 0 to 65535, not {port}")
    try:
        own = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise LWDError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from None
    ready(f"http://{f'[{host}]' if ':' in host else host}:{own.getsockname()[1]}")
    web.run_app(app, sock=own, print=None, access_log=None, shutdown_timeout=PATIENCE)
