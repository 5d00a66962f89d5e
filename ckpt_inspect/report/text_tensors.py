"""The `tensors` listing as a plain table, line by line: 100,000 rows are common, and a table library is too slow.

A name is never shortened for its length. Where it does not fit beside the other columns it gets a line of its own, with
the columns below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ckpt_inspect.printable import printable
from ckpt_inspect.report.numbers import counted, short_count, size
from ckpt_inspect.report.screen import text_width
from ckpt_inspect.report.tensors_document import Measured, unmeasured
from ckpt_inspect.tensors.listing import TensorListing
from ckpt_inspect.tensors.rows import TensorRow
from ckpt_inspect.tensors.statistics import Statistics

_NAME_LIMIT = 240  # beyond it a name is cut: no library writes one as long, an attacker may write a megabyte
_SHAPE_LIMIT = 40
_PROBLEMS_SHOWN = 12
_SMALLEST_NAME = 24
_OFFSET_FROM = 100  # columns of a terminal on which the offset is worth its place
_BOLD, _DIM, _WARN, _END = "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[0m"
_HEADS = {
    "dtype": "DTYPE",
    "shape": "SHAPE",
    "size": "SIZE",
    "offset": "OFFSET",
    "mean": "MEAN",
    "std": "STD",
    "min": "MIN",
    "max": "MAX",
    "odd": "NAN/INF",
    "zero": "ZERO",
}
_LEFT = ("dtype", "shape")
_LOOKS = ("dtype", "shape", "size")  # the same for many rows
# Columns of statistics have fixed widths, since the values are not known when the first line is printed.
_FIXED = {"mean": 9, "std": 9, "min": 9, "max": 9, "odd": 7, "zero": 6}


def tensors_text(
    listing: TensorListing, measured: Iterable[Measured] | None = None, *, width: int, color: bool
) -> Iterator[str]:
    """The lines of the table, the total and what is wrong; `measured` adds statistics, printed as they are found."""
    table = _Table(listing, stats=measured is not None, width=width, color=color)
    if listing.note is not None:
        yield table.dim(printable(listing.note, 300))
    if listing.rows:
        yield from table.lines(unmeasured(listing.rows) if measured is None else measured)
        yield ""
    yield table.bold(total_line(listing))
    yield from table.problems(listing)


def total_line(listing: TensorListing) -> str:
    """Tensors, parameters and bytes in one sentence."""
    files = {row.file for row in listing.rows}
    parameters, nbytes = listing.totals()
    exact = f" ({parameters:,})" if parameters >= 10**6 else ""
    where = f" in {counted(len(files), 'file')}" if len(files) > 1 else ""
    return f"{counted(len(listing.rows), 'tensor')}, {short_count(parameters)}{exact} parameters, {size(nbytes)}{where}"


class _Table:
    def __init__(self, listing: TensorListing, *, stats: bool, width: int, color: bool) -> None:
        self._color = color
        self._stats = stats
        self._grouped = len({row.file for row in listing.rows}) > 1
        rows = listing.rows
        self._columns = self._choose(width)
        self._known: dict[tuple[str, tuple[int, ...], int], str] = {}
        looks = {(row.dtype, row.shape, row.nbytes): row for row in rows}.values()  # few, however many rows
        widths = {name: max(_FIXED.get(name, 0), len(_HEADS[name])) for name in self._columns}
        for name in self._columns:
            if name in _CELLS:
                shown = rows if name == "offset" else looks
                widths[name] = max([widths[name], *(len(_CELLS[name](row)) for row in shown)])
        self._widths = widths
        self._indent = "  " if self._grouped else ""
        beside = sum(widths.values()) + 2 * len(widths) + len(self._indent)
        longest = max((len(row.name) for row in rows), default=4)
        self._name_width = max(4, min(longest, max(width - beside, _SMALLEST_NAME), _NAME_LIMIT))
        self._alone = width < beside + _SMALLEST_NAME and longest > self._name_width
        self._gap = " " if self._alone else "  "  # names on lines of their own: narrow terminal, many columns

    def _choose(self, width: int) -> list[str]:
        names = ["dtype", "shape", "size"]
        if self._stats:
            names = ["dtype", "shape", "mean", "std", "min", "max", "odd", "zero"]
        if width >= _OFFSET_FROM and not self._stats:
            names.append("offset")
        return names

    def lines(self, measured: Iterable[Measured]) -> Iterator[str]:
        heads = [self._pad(name, _HEADS[name]) for name in self._columns]
        first = self._gap if self._alone else f"{'NAME':<{self._name_width}}  "
        yield self.dim(f"{self._indent}{first}{self._gap.join(heads)}".rstrip())
        file = ""
        for row, statistics, reason in measured:
            if self._grouped and row.file != file:
                file = row.file
                yield self.bold(printable(file, _NAME_LIMIT))
            yield from self._row(row, statistics, reason)

    def _row(self, row: TensorRow, statistics: Statistics | None, reason: str | None) -> Iterator[str]:
        name = printable(row.name, _NAME_LIMIT)
        columns = self._columns_of(row, statistics)
        if reason is not None or row.problem is not None:
            columns += f"  ! {printable(reason or row.problem, 120)}"
        elif row.kind != "dense":
            columns += f"  ({row.kind})"
        columns = columns.rstrip()
        space = self._name_width - (len(name) if name.isascii() else text_width(name))
        if space < 0 or self._alone:
            yield self._indent + name
            start = self._gap if self._alone else " " * (self._name_width + 2)
            yield f"{self._indent}{start}{columns}"
        else:
            yield f"{self._indent}{name}{' ' * (space + 2)}{columns}"

    def _columns_of(self, row: TensorRow, statistics: Statistics | None) -> str:
        look = (row.dtype, row.shape, row.nbytes)
        text = self._known.get(look)
        if text is None:
            text = self._gap.join([self._pad(name, _CELLS[name](row)) for name in self._columns if name in _LOOKS])
            self._known[look] = text
        others = [
            self._pad(name, _offset(row) if name == "offset" else _STATISTICS[name](statistics))
            for name in self._columns
            if name not in _LOOKS
        ]
        return self._gap.join([text, *others]) if others else text

    def _pad(self, column: str, text: str) -> str:
        return text.ljust(self._widths[column]) if column in _LEFT else text.rjust(self._widths[column])

    def problems(self, listing: TensorListing) -> Iterator[str]:
        """What is wrong with the files, one line each."""
        problems = listing.problems
        for problem in problems[:_PROBLEMS_SHOWN]:
            fault = problem.fault
            place = f" ({printable(fault.place, 80)})" if fault.place else ""
            offset = f" at byte {fault.offset:,}" if fault.offset is not None else ""
            text = f"! {printable(problem.file, 120)}: {printable(fault.message, 200)}{place}{offset}"
            yield f"{_WARN}{text}{_END}" if self._color else text
        if len(problems) > _PROBLEMS_SHOWN:
            yield f"! {len(problems) - _PROBLEMS_SHOWN:,} more; --json lists all"

    def dim(self, text: str) -> str:
        return f"{_DIM}{text}{_END}" if self._color else text

    def bold(self, text: str) -> str:
        return f"{_BOLD}{text}{_END}" if self._color else text


def _shape(row: TensorRow) -> str:
    text = str(list(row.shape)) if len(row.shape) < 16 else f"[{len(row.shape):,} dimensions]"
    return text if len(text) <= _SHAPE_LIMIT else f"{text[: _SHAPE_LIMIT - 1]}…"


def _offset(row: TensorRow) -> str:
    if row.offset is not None:
        return f"{row.offset:,}"
    return f"{len(row.chunks):,} pieces" if len(row.chunks) > 1 else "-"


_CELLS: dict[str, Callable[[TensorRow], str]] = {
    "dtype": lambda row: row.dtype,
    "shape": _shape,
    "size": lambda row: size(row.nbytes),
    "offset": _offset,
}


def _value(value: float | int | None) -> str:
    """A number in nine columns."""
    if value is None:
        return "-"
    if isinstance(value, int):
        text = f"{value:,}"
        return text if len(text) <= 9 else f"{value:.2e}"
    text = f"{value:.4g}"
    return text if len(text) <= 9 else f"{value:.1e}"


def _odd(found: Statistics | None) -> str:
    if found is None:
        return "-"
    return f"{found.nan:,}/{found.infinite:,}" if found.nan or found.infinite else "0"


def _zero(found: Statistics | None) -> str:
    if found is None or found.zero_fraction is None:
        return "-"
    share = found.zero_fraction
    if 0 < share < 0.001:
        return "<0.1%"
    return ">99.9%" if 0.999 < share < 1 else f"{share:.1%}" if 0 < share < 1 else f"{share:.0%}"


_STATISTICS: dict[str, Callable[[Statistics | None], str]] = {
    "mean": lambda found: _value(found.mean if found else None),
    "std": lambda found: _value(found.std if found else None),
    "min": lambda found: _value(found.minimum if found else None),
    "max": lambda found: _value(found.maximum if found else None),
    "odd": _odd,
    "zero": _zero,
}
