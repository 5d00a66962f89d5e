"""Pages made of the program's own tables: rules from their docstrings, files from ``knowledge/artifacts.toml``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ckpt_inspect import knowledge
from ckpt_inspect.report.rule_pages import rule_markdown
from ckpt_inspect.rules.registry import all_rules

FAMILIES = {
    "0": "Files and structure",
    "1": "Weights",
    "2": "Trainer state, schedule and arithmetic",
    "3": "Adapters and new tokens",
    "4": "ZeRO, FSDP and universal shards",
    "5": "Pickles, secrets and hostile content",
    "6": "Resume",
    "7": "Rotation and space",
    "8": "Tokenizers and chat templates",
    "9": "Results, logs and cards",
}
NOTICE = "<!-- Made by `python docs/make`; change the source, not this page. -->\n"


def rule_pages() -> dict[str, str]:
    """The page of every rule by its path below ``docs``."""
    return {f"rules/{code}.md": NOTICE + "\n" + rule_markdown(rule) for code, rule in all_rules().items()}


def rules_index() -> str:
    """The list of rules, by family."""
    rules = all_rules()
    lines = [
        NOTICE,
        "# Rules",
        "",
        f"The {len(rules)} rules of [`ckpt-inspect check`](../check.md), by family. `ckpt-inspect rule CODE` prints a page.",
        "A rule marked *deep* reads weights and runs only with `--deep`.",
    ]
    for digit, title in FAMILIES.items():
        family = [rule for code, rule in rules.items() if code[3] == digit]
        if family:
            lines += ["", f"## {title}", "", "| rule | name | severity | finds |", "| --- | --- | --- | --- |"]
            for rule in family:
                deep = ", deep" if rule.deep else ""
                row = (f"[{rule.code}]({rule.code}.md)", rule.name, f"{rule.severity}{deep}", rule.summary)
                lines.append(table_row(row))
    return "\n".join(lines) + "\n"


def files_page() -> str:
    """Which file is which: every artifact kind that has a purpose, by group."""
    table = knowledge.load("artifacts")
    lines = [
        NOTICE,
        "# Which file is which",
        "",
        "What training runs leave behind, as [`ckpt-inspect show --files`](show.md) tells it. A name between slashes is a",
        "regular expression for the whole file name. *Kind* is the word used in JSON documents and in contracts.",
        "",
        "*Needed for*: **inference** to use the model, **resume** to go on training, **consolidate** to join shards,",
        "**record** only to know how it went.",
    ]
    for group in table["group"]:
        kinds = {
            kind: row for kind, row in table["kind"].items() if row.get("group") == group["id"] and row.get("purpose")
        }
        if kinds:
            lines += [
                "",
                f"## {group['title']}",
                "",
                "| file | kind | purpose | needed for |",
                "| --- | --- | --- | --- |",
            ]
            for kind, row in kinds.items():
                needed = ", ".join(row.get("needed_for", ())) or "nothing"
                lines.append(table_row(("<br>".join(_names(row)), f"`{kind}`", row["purpose"], needed)))
    return "\n".join(lines) + "\n"


def _names(row: Mapping[str, Any]) -> Iterable[str]:
    place = f" in /{row['within']}/" if row.get("within") else ""
    for name in row.get("names", ()):
        yield f"`{name}{place}`"
    for pattern in row.get("patterns", ()):
        yield f"`/{pattern}/{place}`"


def table_row(cells: Iterable[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
