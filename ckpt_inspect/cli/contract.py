"""`contract`: learn from a good run what later runs are held to."""

from __future__ import annotations

from pathlib import Path

from ckpt_inspect.cli.options import BaseOption, OutputOption, RunPath
from ckpt_inspect.cli.session import emit, note
from ckpt_inspect.printable import printable


def contract(path: RunPath = Path(), output: OutputOption = None, base: BaseOption = None) -> None:
    """Write the contract of a run: its artifacts, tensors, world size, pickle globals and bounds on its losses.

    Hold later runs to it with `ckpt-inspect check RUN --contract FILE`. It is TOML, meant to be edited.
    """
    from ckpt_inspect.report.show_document import show_document
    from ckpt_inspect.rules.contract import contract_text, learn
    from ckpt_inspect.run import open_run

    run = open_run(path)
    text = contract_text(learn(run, show_document(run, base=base)))
    if output is None:
        emit(text)
        return
    from ckpt_inspect.cli.output import write_file

    write_file(output, text)
    note(f"wrote {printable(output)}")
