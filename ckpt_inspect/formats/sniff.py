"""What a file is by its first bytes, never by its name.

Magic numbers: the formats' own documents; git LFS pointers: ``git-lfs/docs/spec.md``; torch's legacy magic number:
``torch/serialization.py``, `MAGIC_NUMBER`; tar: POSIX.1-1988, "ustar" at byte 257.
"""

from __future__ import annotations

import re

from ckpt_inspect.formats.zip_end import last_archive_start
from ckpt_inspect.storage import ByteSource

_HEAD = 4096

LEGACY_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_TORCH = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0a" + re.escape(LEGACY_TORCH_MAGIC.to_bytes(10, "little")) + rb"\.|"
    rb"L" + str(LEGACY_TORCH_MAGIC).encode() + rb"L?\n\.",
    re.DOTALL,
)
# Protocols 0 and 1 have no mark of their own: a first opcode and what must follow it.
_OLD_PICKLE = re.compile(
    rb"\(*(?:c[\w.]+\n[\w.]+\n|i[\w.]+\n[\w.]+\n|[}\])]q.|[dlt]p\d+\n|[}\])(][cKMJTUXSVIFGL(]|[}\]](?:p\d+\n|\.)"
    rb"|[t)]\.|[IFL][-+]?(?:0x)?[\da-fA-F.]+L?\n|N\.|[KMJ].{1,4}[.q]|S'[^\n]*'\n|S\"[^\n]*\"\n|V[^\n]*\n[p.]|U..|G.{8}[.q]"
    rb"|X.\x00\x00\x00)",
    re.DOTALL,
)

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"version https://git-lfs.github.com/spec/", "lfs-pointer"),
    (b"version https://hawser.github.com/spec/", "lfs-pointer"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GGUF", "gguf"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"\x93NUMPY", "numpy"),
    (b"PAR1", "parquet"),
    (b"%PDF-", "pdf"),
    (b"\x7fELF", "elf"),
)
_ZLIB_HEADERS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_FIRST_OPCODE = 0x28  # MARK; no pickle opcode is smaller
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|\?xml)[\s>]", re.IGNORECASE)
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]\d\-tfn])")


def sniff(source: ByteSource) -> str:
    """The format of the bytes: "zip", "legacy-torch", "pickle", "safetensors", "lfs-pointer", ... or "unknown".

    "empty" is a file of no bytes; "zeros" one whose first 4 KiB are zero: space reserved and never written.
    """
    if source.size == 0:
        return "empty"
    head = source.read_at(0, _HEAD)
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if _LEGACY_TORCH.match(head):
        return "legacy-torch"
    safetensors = _begins_safetensors(source, head)
    if len(head) >= 2 and head[0] == 0x80 and head[1] <= 5:
        # A header of 0x0580 bytes begins like a pickle of protocol 5, and goes on with what is no opcode.
        return "safetensors" if safetensors and head[2] < _FIRST_OPCODE else "pickle"
    if safetensors:
        return "safetensors"
    if _is_tar(head):
        return "tar"
    if not head.strip(b"\x00"):
        return "zeros"
    name = _text_or_old_pickle(source, head)
    # A self-extracting archive: zip readers look for its end, whatever stands before it.
    return "zip" if name == "unknown" and last_archive_start(source) is not None else name


def _begins_safetensors(source: ByteSource, head: bytes) -> bool:
    """A length that may be, and a JSON object behind it."""
    if len(head) < 9 or head[8:9] not in (b"{", b" ", b"\n", b"\t") or b"{" not in head[8:64]:
        return False
    return 2 <= int.from_bytes(head[:8], "little") <= max(source.size - 8, 100_000_000)


def _is_tar(head: bytes) -> bool:
    """The mark at 257, or, for tars older than it, a header checksum (octal, at 148) that is right."""
    if head[257:262] == b"ustar":
        return True
    if len(head) < 512 or not head[0]:
        return False
    try:
        stated = int(head[148:156].split(b"\x00")[0].strip() or b"x", 8)
    except ValueError:
        return False
    return stated == sum(head[:148]) + 8 * 0x20 + sum(head[156:512])


def _text_or_old_pickle(source: ByteSource, head: bytes) -> str:
    if _HTML.match(head):
        return "html"
    if _JSON.match(head):
        return "json"
    if _OLD_PICKLE.match(head) and source.read_at(source.size - 1, 1) in (b".", b"\n", b"\x00"):
        return "pickle"
    if head[:2] in _ZLIB_HEADERS and int.from_bytes(head[:2], "big") % 31 == 0:
        return "zlib"
    return "unknown"
