"""``innerloop demo``."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence

from innerloop.cli.arguments import DemoArguments, UsageError, parse
from innerloop.extras import need

__all__ = ["demo"]


def demo(argv: Sequence[str]) -> int:
    """Serve the page until it is interrupted. Return 0.

    Raises:
        UsageError: the command line has a mistake.
        MissingExtraError: the packages of the server are not installed.
        CheckpointError: there is no learner in the folder that is named, or the page cannot show it.
        OSError: the address or the port cannot be had.
    """
    arguments = parse(DemoArguments, "demo", argv)
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port is {arguments.port}; it must be 0 to 65535")
    need("demo")
    from innerloop.demo import opened, serve

    def ready(address: str) -> None:
        print(f"open {address} and draw; Ctrl-C stops the server", flush=True)
        if arguments.open:
            webbrowser.open(address)

    serve(opened(arguments.run), host=arguments.host, port=arguments.port, names=arguments.name, ready=ready)
    return 0
