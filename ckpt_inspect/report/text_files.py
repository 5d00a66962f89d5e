"""The files of a `show` document: grouped by what they are for, or every one with its purpose."""

from __future__ import annotations

from typing import Any

from ckpt_inspect.printable import printable
from ckpt_inspect.report.numbers import counted, listed, size
from ckpt_inspect.report.screen import Screen, Span, Style, text_width
from ckpt_inspect.run import groups

Json = dict[str, Any]

_WIDE = 120


def file_groups(screen: Screen, document: Json) -> None:
    """One line for each group: size, the files of the root by name, how many lie in checkpoints."""
    rows = document["artifacts"]
    if document["kind"] == "file" or not rows:
        return
    below = tuple(f"{row['path']}/" for row in (*document["checkpoints"], *document["nested"]) if row["path"] != ".")
    screen.heading(f"Files ({counted(len(rows), 'file')}, {size(sum(row['bytes'] for row in rows))})")
    for id_, title in groups():
        members = [row for row in rows if row["group"] == id_]
        if not members:
            continue
        own = [row for row in members if not row["path"].startswith(below)] if below else members
        names = _names(own)
        elsewhere = len(members) - len(own)
        text = listed(names, 8) if names else ""
        if elsewhere:
            text += (
                (", " if text else "") + f"{elsewhere:,} " + ("in checkpoints" if document["checkpoints"] else "below")
            )
        style: Style = "warn" if id_ in ("leftover", "unknown") else ""
        label = f"  {title:<14}{size(sum(row['bytes'] for row in members)):>8}"
        screen.field(label, Span(text, style), label_width=len(label) + 2, style="")


def _names(rows: list[Json]) -> list[str]:
    """Names of the root's files; several of one kind in one place are counted."""
    by_kind: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        parent = row["path"].rpartition("/")[0]
        by_kind.setdefault((row["kind"], parent), []).append(row["path"])
    names = []
    for paths in by_kind.values():
        names.append(printable(paths[0], 80) if len(paths) == 1 else f"{printable(paths[0], 80)} (+{len(paths) - 1})")
    return names


def file_list(screen: Screen, document: Json) -> None:
    """Every file: path, size, purpose, what it is needed for."""
    rows = document["artifacts"]
    if not rows and not document["empty_directories"]:
        return
    screen.heading(f"Files ({counted(len(rows), 'file')})")
    titles = dict(groups())
    order = list(titles)
    if screen.width >= _WIDE:
        longest = min(60, max((text_width(printable(row["path"], 200)) for row in rows), default=0))
    for id_ in order:
        members = [row for row in rows if row["group"] == id_]
        if not members:
            continue
        screen.blank()
        screen.line(Span(titles[id_], "bold"), Span(f"  {size(sum(row['bytes'] for row in members))}", "dim"), indent=2)
        for row in members:
            path = printable(row["path"], 200)
            needed = f" Needed for {', '.join(row['needed_for'])}." if row["needed_for"] else ""
            detail = f" ({printable(row['detail'], 120)})" if row.get("detail") else ""
            if screen.width >= _WIDE:
                if text_width(path) > longest:  # a line of its own, so that the columns stay where they are
                    screen.line(Span(path, "accent"), indent=2)
                    path = ""
                label = f"  {path}{' ' * (longest + 2 - text_width(path))}{size(row['bytes']):>8}"
                screen.field(
                    label, f"{row['purpose']}{needed}{detail}", label_width=text_width(label) + 2, style="accent"
                )
            else:
                screen.line(Span(path, "accent"), f"  {size(row['bytes'])}", indent=2)
                screen.line(f"{row['purpose']}{needed}{detail}", indent=6)
    if document["empty_directories"]:
        screen.blank()
        screen.line(Span("Empty directories", "bold"), indent=2)
        for path in document["empty_directories"]:
            screen.line(printable(path, 200), indent=2)
