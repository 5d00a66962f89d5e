"""What the site needs besides ``docs``: pages whose source lies elsewhere in the project (a MkDocs hook)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# path from docs/ as GitHub follows it -> page of the site
ELSEWHERE = {"../CHANGELOG.md": "changelog.md", "../fixtures/README.md": "fixtures.md"}
_LINK = re.compile(r"\]\((?P<target>\.\./[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / "docs" / source).resolve().read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links that leave ``docs`` to the pages made of their targets."""
    if page.file.src_uri.count("/"):
        return markdown
    return _LINK.sub(lambda link: f"]({ELSEWHERE.get(link['target'], link['target'])}{link['anchor'] or ''})", markdown)
