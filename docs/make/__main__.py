"""Brings the documentation up to date with the program: ``python docs/make [pages] [screens] [outputs]``.

* pages: rules, files, tables of releases, the Python API
* screens: the pictures of the terminal in ``docs/images``
* outputs: what the commands in the pages and the README print (``tests/docs/examples.py``)
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("pages", "screens", "outputs")


def main(wanted: list[str]) -> None:
    """Make the parts named, all if none is."""
    sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
    from make import pages, screens

    unknown = set(wanted) - set(PARTS)
    if unknown:
        sys.exit(f"no part {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    chosen = wanted or list(PARTS)
    if "pages" in chosen:
        pages.write()
    if "screens" in chosen:
        screens.write()
    if "outputs" in chosen:
        runpy.run_path(str(ROOT / "tests" / "docs" / "examples.py"), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
