"""How the fuzz of the readers changes its seeds: bytes of anything, tokens of JSON, pickles inside a torch archive.

Changed bytes mostly break the outermost layer, the length or the directory, and nothing behind it is read. So half of the
inputs of a layered format are taken apart, changed inside, and put together again with lengths and checksums that agree.
"""

from __future__ import annotations

import io
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable

from fuzz import differential

Mutation = Callable[[random.Random, list[bytes]], bytes]

_LONGEST = 8192
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|\w+|\s+|.', re.DOTALL)
_VALUES = (
    *(
        b"0",
        b"1",
        b"2",
        b"-1",
        b"8",
        b"16",
        b"22",
        b"24",
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"4294967296",
        b"9007199254740993",
    ),
    *(b"18446744073709551615", b"18446744073709551616", b"null", b"true", b"false", b"NaN", b"Infinity", b"[]", b"{}"),
    *(b"[0]", b"[0,0]", b"[2,2]", b"[16,22]", b"[0,16]", b'""', b'"w"', b'"v"', b'"\\u0077"', b'"\\ud800"', b'"\x00"'),
    *(b'"F32"', b'"BF16"', b'"F4"', b'"F64"', b'"BOOL"', b'"f32"', b'"__metadata__"', b'"dtype"', b'"shape"'),
    *(
        b'"data_offsets"',
        b'"../x"',
        b'"/etc/passwd"',
        b'"a/../../b"',
        b'"C:\\\\x"',
        b'"\xff"',
        b'"' + b"a" * 300 + b'"',
    ),
)
_MARKS = (b",", b":", b"{", b"}", b"[", b"]", b" ", b"\n", b'"', b"\\", b"\xef\xbb\xbf", b"//", b"\x00")


def mutate_bytes(rng: random.Random, pool: list[bytes]) -> bytes:
    """A few edits, to bytes, numbers, runs, and between seeds."""
    data = bytearray(rng.choice(pool))
    for _ in range(rng.randrange(1, 6)):
        if not data:
            break
        kind, at = rng.randrange(8), rng.randrange(len(data))
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 24)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 48)]
        elif kind == 4:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", bytes(4), b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f"))
        elif kind == 5:
            other = rng.choice(pool)
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + rng.randrange(1, 64)]
        elif kind == 6:
            data[at:at] = rng.choice(
                (b"\\", b'"', b"{", b"}", b"[", b"]", b"..", b"/", b"\x00", b"1e9", b"-", b"PK\x01\x02", b"PK\x05\x06")
            )
        else:
            del data[at:]
    return bytes(data[:_LONGEST])


def mutate_json(rng: random.Random, pool: list[bytes]) -> bytes:
    """Edits of whole tokens: most results are still JSON, with the wrong thing at some place."""
    tokens = _TOKEN.findall(rng.choice(pool))
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(6)
        at = rng.randrange(len(tokens) + 1)
        if kind == 0:
            tokens[at:at] = [rng.choice(_MARKS)]
        elif kind == 1:
            tokens[at:at] = tokens[at : at + rng.randrange(1, 9)]
        elif kind == 2:
            del tokens[at : at + rng.randrange(1, 4)]
        else:
            values = [place for place, token in enumerate(tokens) if token[:1].isalnum() or token[:1] in b'"-']
            if values:
                tokens[rng.choice(values)] = rng.choice(_VALUES) if kind < 5 else tokens[rng.choice(values)]
    return b"".join(tokens)[:_LONGEST]


def mutate_safetensors(rng: random.Random, pool: list[bytes]) -> bytes:
    """A header changed by :func:`mutate_json` behind a length that fits it, and mostly data that does not change."""
    whole = rng.choice(pool)
    (length,) = struct.unpack("<Q", whole[:8].ljust(8, b"\0"))
    if length > len(whole):
        return mutate_bytes(rng, pool)
    header = mutate_json(rng, [whole[8 : 8 + length]])
    if rng.random() < 0.5:
        header += b" " * (-len(header) % 8)
    data = whole[8 + length :]
    if rng.random() < 0.2:
        data = data[: rng.randrange(len(data) + 1)] + bytes(rng.randrange(3))
    return struct.pack("<Q", len(header)) + header + data


def mutate_torch(rng: random.Random, pool: list[bytes]) -> bytes:
    """An archive whose pickle is changed, every length and checksum being right."""
    archive = rng.choice(pool)
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            members = [(info.filename, opened.read(info)) for info in opened.infolist()]
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, NotImplementedError):
        return mutate_bytes(rng, pool)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made, warnings.catch_warnings(action="ignore"):  # names that occur twice
        for name, content in members:
            changed = name.endswith(".pkl") or rng.random() < 0.02
            entry = zipfile.ZipInfo(name[:200] or "x")
            made.writestr(entry, differential.mutate(rng, [content]) if changed else content)
    return out.getvalue()


def either(one: Mutation, other: Mutation) -> Mutation:
    """Half of each."""
    return lambda rng, pool: (one if rng.random() < 0.5 else other)(rng, pool)


MUTATIONS: dict[str, Mutation] = {
    "zip": mutate_bytes,
    "torch": either(mutate_torch, mutate_bytes),
    "safetensors": either(mutate_safetensors, mutate_bytes),
    "json": either(mutate_json, mutate_bytes),
    "index": either(mutate_json, mutate_bytes),
    "scan": either(mutate_bytes, mutate_torch),
}
