"""``innerloop demo``."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence

from innerloop.cli.arguments import DemoArguments, UsageError, parse
from innerloop.extras import need

__all__ = ["demo"]


def demo(argv: Sequence[str]) -> int:
    """Serve the page until it is interrupted, or write it as static files. Return 0.

    Raises:
        UsageError: the command line has a mistake.
        MissingExtraError: the packages of the server are not installed.
        CheckpointError: there is no learner in the folder that is named, or the page cannot show it.
        ExportError: a learner cannot be exported, and the page shall be static.
        RuntimeFilesError: the files of onnxruntime-web cannot be had, and the page shall be static.
        OSError: the address or the port cannot be had, or the folder cannot be written.
    """
    arguments = parse(DemoArguments, "demo", argv)
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port is {arguments.port}; it must be 0 to 65535")
    if arguments.runtime is not None and arguments.static is None:
        raise UsageError("--runtime is for the static page; add --static DIR with the folder to write")
    need("demo")
    from innerloop.demo import opened, serve

    if arguments.static is not None:
        need("export")
        from innerloop.demo.static import write_static

        written = write_static(opened(arguments.run), arguments.static, runtime=arguments.runtime)
        size = sum(file.stat().st_size for file in written) / 1e6
        print(f"{arguments.static}: {len(written)} files, {size:.1f} MB; open index.html, or put them on a web server")
        return 0

    def ready(address: str) -> None:
        print(f"open {address} and draw; Ctrl-C stops the server", flush=True)
        if arguments.open:
            webbrowser.open(address)

    serve(opened(arguments.run), host=arguments.host, port=arguments.port, names=arguments.name, ready=ready)
    return 0
