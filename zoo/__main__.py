"""The command `zoo`, and `python -m zoo`. Ctrl-C ends it with a word, from its first moment on."""

from __future__ import annotations

import signal
import sys
from typing import Any


def main() -> None:
    """Run the command line; its imports take a second in which ctrl-C may be pressed too."""
    pressed = []

    def heed(number: int, frame: Any) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, heed)
    try:
        from zoo.cli.main import main as command

        command()
    except (Exception, KeyboardInterrupt):
        # An import that is interrupted may end with an ImportError.
        if not pressed:
            raise
        print("Stopped by ctrl-C.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
