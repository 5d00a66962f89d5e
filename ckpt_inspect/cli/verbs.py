"""The verbs of the command line: where each one's function is. A verb is imported only when it is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: the module and function that do it, and its line in ``ckpt-inspect --help``."""

    name: str
    module: str
    function: str
    help: str


VERBS = (
    Verb("show", "ckpt_inspect.cli.show", "show", "What is here and how did it go, on one screen."),
    Verb(
        "explain",
        "ckpt_inspect.cli.explain",
        "explain",
        "Answer questions with their arithmetic: loss, tokens, resume.",
    ),
    Verb("check", "ckpt_inspect.cli.check", "check", "Find what is wrong and say what to do about it."),
    Verb("rule", "ckpt_inspect.cli.rule", "rule", "The documentation of a rule that check applies."),
    Verb("args", "ckpt_inspect.cli.args", "args", "Every hyper-parameter in training_args.bin."),
    Verb(
        "tensors",
        "ckpt_inspect.cli.tensors",
        "tensors",
        "Names, dtypes, shapes and sizes of the tensors in a file or directory.",
    ),
    Verb("scan", "ckpt_inspect.cli.scan", "scan", "Which code each pickle would call if it were loaded."),
    Verb("plot-loss", "ckpt_inspect.cli.plot_loss", "plot_loss", "Draw the loss curve in the terminal or into a file."),
    Verb("consolidate", "ckpt_inspect.cli.consolidate", "consolidate", "Join ZeRO or FSDP shards into usable weights."),
    Verb("contract", "ckpt_inspect.cli.contract", "contract", "Learn from a good run what later runs are held to."),
    Verb("tokens", "ckpt_inspect.cli.tokens", "tokens", "Where the new tokens are and whether they were trained."),
)
