"""Unpacking functions bound once: the fixed-width arguments of pickle opcodes."""

from __future__ import annotations

from struct import Struct

U2 = Struct("<H").unpack_from
I4 = Struct("<i").unpack_from
U4 = Struct("<I").unpack_from
U8 = Struct("<Q").unpack_from
F8 = Struct(">d").unpack_from
