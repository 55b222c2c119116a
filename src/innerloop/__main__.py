"""``python -m innerloop`` and the command ``innerloop`` run the command line."""

import sys

from innerloop.extras import MissingExtraError

__all__ = ["main"]


def main() -> int:
    """Run the command line, or say in one line which extra it needs."""
    try:
        from innerloop.cli.main import main as run
    except MissingExtraError as error:
        print(f"innerloop: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
