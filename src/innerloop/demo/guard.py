"""What holds for every request and every answer: who may ask, and what a browser may do with the page."""

from __future__ import annotations

from innerloop.extras import extra

with extra("demo"):
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "Guard"]

HEADERS = {
    # The page has everything from this server: no inline script or style, no frame, no form, nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""The headers of every answer."""


class Guard:
    """Checks to whom a request is addressed and from which page it comes, and adds :data:`HEADERS` to every answer.

    Another web site could have its name point to this machine, and a page of another site could send requests here.
    Both carry the other site's name, in the header ``Host`` or ``Origin``.

    Args:
        inner: the application.
        hosts: the host names that are this server's, without ports.
    """

    def __init__(self, inner: ASGIApp, hosts: frozenset[str]) -> None:
        self._inner, self._hosts = inner, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self._inner(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if reason := self._objection(Headers(scope=scope)):
            return await JSONResponse({"error": reason}, 403)(scope, receive, send_with_headers)
        return await self._inner(scope, receive, send_with_headers)

    def _objection(self, headers: Headers) -> str:
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in self._hosts:
            return "this server does not go by that host name; open the address that it printed"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return "the request comes from a page of another site"
        return ""
