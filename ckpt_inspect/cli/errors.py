"""How a failed call ends: one line on standard error, an exit code, and the traceback only with --debug."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

from ckpt_inspect.cli.session import SESSION, complain, silence
from ckpt_inspect.errors import CkptInspectError
from ckpt_inspect.printable import printable

EXIT_USAGE = 2
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h: nothing was decided, so it must not look like a finding
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_LINE = 2000


def exit_code_of(call: Callable[[], Any]) -> int:
    """Run `call`; its exit code, after whatever went wrong was said."""
    import typer

    try:
        result = call()
    except CkptInspectError as error:
        _show_traceback()
        complain(f"ckpt-inspect: {printable(error, _LINE)}")
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        _show_traceback()
        complain("ckpt-inspect: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence()
        return 0
    except MemoryError:
        _show_traceback()
        complain("ckpt-inspect: out of memory; name a smaller part of the run")
        return EXIT_INTERNAL
    except Exception as error:  # noqa: BLE001  # the last line of defence: a person gets one line, never a traceback
        # typer before 0.26 raises click's exceptions, later its own copies: both have `format_message`
        if hasattr(error, "format_message"):
            complain(_usage(error))
            return EXIT_USAGE
        _show_traceback()
        complain(
            f"ckpt-inspect: internal error, nothing was decided: {type(error).__name__}: {printable(error, 300)}; "
            "please report it with what the same command prints with --debug"
        )
        return EXIT_INTERNAL
    return result if isinstance(result, int) else 0


def _usage(error: Any) -> str:
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "ckpt-inspect"
    message = printable(error.format_message(), _LINE).rstrip(".")
    return f"{command}: {message}; see {command} --help"


def _show_traceback() -> None:
    if SESSION.debug:
        traceback.print_exc(file=sys.stderr)
