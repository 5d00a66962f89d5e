"""Which rules run and how severe each is: codes, code prefixes and names, with a suggestion for what does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ckpt_inspect.errors import UsageError
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.finding import SEVERITIES, Severity
from ckpt_inspect.rules.registry import Rule


@dataclass(frozen=True, slots=True)
class Selection:
    """The rules to run by code, and the severity of each; `thorough`: rules may open every file."""

    rules: Mapping[str, Rule]
    severities: Mapping[str, Severity]
    thorough: bool = True


def select_rules(
    rules: Mapping[str, Rule],
    *,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    severity: Mapping[str, str] | None = None,
    deep: bool = False,
    thorough: bool = True,
) -> Selection:
    """Choose among `rules`. The more specific of two choices wins (`--select CKP401 --ignore CKP4` keeps CKP401).

    Args:
        select: codes, prefixes (``CKP4``) or names; all rules when empty.
        ignore: likewise, taken away.
        severity: code, prefix or name to "error", "warning", "note" or "off".
        deep: include rules that read weights. A deep rule named in full by `select` runs only with it, too.
        thorough: include rules that open every pickle or shard.

    Raises:
        UsageError: a selector matches no rule, or a severity is not one.
    """
    wanted = {selector: matching(rules, selector) for selector in select}
    unwanted = {selector: matching(rules, selector) for selector in ignore}
    levels: dict[str, Severity] = {}
    for selector, level in sorted((severity or {}).items(), key=lambda item: len(item[0])):
        if level not in (*SEVERITIES, "off"):
            raise UsageError(f"severity {printable(level)!r} is not one of error, warning, note, off")
        for code in matching(rules, selector):
            if level == "off":
                unwanted[code] = frozenset({code})
            else:
                levels[code] = level  # type: ignore[assignment]  # checked against SEVERITIES above
    chosen = {
        code: rule
        for code, rule in rules.items()
        if (deep or not rule.deep)
        and (thorough or not rule.thorough)
        and _strength(wanted, code, 0 if wanted else 1) > _strength(unwanted, code, 0)
    }
    return Selection(chosen, {code: levels.get(code, rule.severity) for code, rule in chosen.items()}, thorough)


def matching(rules: Mapping[str, Rule], selector: str) -> frozenset[str]:
    """The codes a selector stands for.

    Raises:
        UsageError: it stands for none; the message names the nearest.
    """
    text = selector.strip()
    found = frozenset(
        code for code, rule in rules.items() if code.startswith(text.upper()) or rule.name == text.lower()
    )
    if not text or not found:
        names = [*rules, *(rule.name for rule in rules.values())]
        from difflib import get_close_matches

        near = get_close_matches(text, names, 3, 0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "`ckpt-inspect rule` lists them"
        raise UsageError(f"no rule is called {printable(selector)!r}", remedy=hint)
    return found


def _strength(choices: Mapping[str, frozenset[str]], code: str, default: int) -> int:
    """Length of the longest selector that names `code`: a full name counts as a full code."""
    lengths = [
        len(code) if not code.startswith(selector.strip().upper()) else len(selector.strip())
        for selector, codes in choices.items()
        if code in codes
    ]
    return max(lengths, default=default)
