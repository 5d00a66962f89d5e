"""The console script's door."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. `--version` alone answers before anything heavy is imported."""
    if sys.argv[1:] == ["--version"]:
        from ckpt_inspect import __version__

        print(f"ckpt-inspect {__version__}")
        return
    from ckpt_inspect.cli.app import run

    run()


if __name__ == "__main__":
    main()
