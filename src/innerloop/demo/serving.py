"""Serving the page on a port of this machine."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

import torch

from innerloop.demo.contenders import Shown
from innerloop.demo.requests import Limits
from innerloop.demo.server import application
from innerloop.extras import extra

with extra("demo"):
    import uvicorn

__all__ = ["serve"]


def serve(
    shown: Shown,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Sequence[str] = (),
    limits: Limits | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        shown: the learners, see :func:`innerloop.demo.opened`.
        host: the address to listen on. Any other than the default lets other machines in.
        port: the port; 0 for one that is free.
        names: further host names that the page is opened by.
        limits: the bounds of what is accepted.
        ready: called with the page's address as soon as it can be opened.

    Raises:
        OSError: the address or the port cannot be had. The error names it.
    """
    limits = limits or Limits()
    torch.set_num_threads(1)  # the networks are small: two tasks on two threads are faster than one task on both
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        number = getattr(error, "errno", None) or 0
        raise OSError(number, f"{reason}; choose another --host or --port", f"{host}:{port}") from error
    port = listener.getsockname()[1]
    shown_host = f"[{host}]" if ":" in host else host
    hosts = {"localhost", "127.0.0.1", "[::1]", shown_host.lower(), *map(str.lower, names)}
    if not _is_loopback(host):
        hosts |= _own_names(host)
    config = uvicorn.Config(
        application(shown, limits, frozenset(hosts)),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=limits.connections,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=16_384,
    )
    _warm_up(shown)
    listener.listen(limits.connections)  # from here on a browser that connects is not refused, but waits
    if ready is not None:
        ready(f"http://{shown_host}:{port}/")
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def _warm_up(shown: Shown) -> None:
    """Adapt every learner once: PyTorch takes longer for the first task of its life than for others."""
    x = torch.zeros(2, shown.channels, shown.size, shown.size)
    for one in shown.contenders:
        one.answer(x, torch.arange(2), x[:1], 2)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _own_names(host: str) -> set[str]:
    """The names under which other machines may know this one, if it listens on all of its addresses."""
    name = socket.gethostname().lower()
    names = {name, name.partition(".")[0]}
    if host in ("0.0.0.0", "::"):
        try:
            found = socket.getaddrinfo(name, None)
        except OSError:
            found = []
        names |= {f"[{info[4][0]}]" if ":" in str(info[4][0]) else str(info[4][0]) for info in found}
    return names
