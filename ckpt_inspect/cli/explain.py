"""`explain`: answers to the questions people have in front of a run, each with its arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckpt_inspect.cli.options import BaseOption, JsonOption
from ckpt_inspect.cli.session import emit, output_width, use_color
from ckpt_inspect.errors import UsageError

_WORDS_HELP = (
    "Topics, then a path. Topics: loss, schedule, batches, evaluation, tokens, adapter, resume, space; all when none is "
    "named. A directory that is called like a topic is written ./loss."
)


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]... [PATH]", help=_WORDS_HELP, show_default="all topics, the current directory"),
    ] = None,
    json: JsonOption = False,
    base: BaseOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read weights and whole files: slower, tells more.")
    ] = False,
    deletion_script: Annotated[
        bool, typer.Option("--deletion-script", help="Print a shell script of what may go, to review; runs nothing.")
    ] = False,
) -> None:
    """Explain a run: what its numbers mean and how they come about."""
    from ckpt_inspect.report.explain_document import explain_document, explain_topics
    from ckpt_inspect.run import open_run

    topics, path = split(words or [])
    run = open_run(path)
    if deletion_script:
        from ckpt_inspect.explain.space import deletion_script as script_of
        from ckpt_inspect.explain.space import explain_space

        answer = explain_space(run, deep=deep)
        if answer is None:
            raise UsageError("there is nothing in the path that could go", where=str(path))
        emit(script_of(run, answer))
        return
    explained = explain_topics(run, topics, base=base, deep=deep)
    if json:
        from ckpt_inspect.report.json_text import json_text

        emit(json_text(explain_document(run, explained)))
        return
    from ckpt_inspect.report.text_explain import explain_text

    emit(explain_text(explained, width=output_width(), color=use_color()))


def split(words: list[str]) -> tuple[tuple[str, ...], Path]:
    """Topics and the path among the words of the command line.

    Raises:
        UsageError: a word is neither a topic nor the one path.
    """
    from ckpt_inspect.report.explain_document import NAMES

    topics = [word for word in words if word in NAMES]
    others = [word for word in words if word not in NAMES]
    if len(others) > 1:
        raise UsageError(
            f"{others[0]!r} is no topic, and only one path can be given", remedy=f"the topics are {', '.join(NAMES)}"
        )
    return tuple(dict.fromkeys(topics)), Path(others[0]) if others else Path()
