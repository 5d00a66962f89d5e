"""Keys, passwords and places in the bytes of a file. Values are never kept: what is said is how they begin and how long
they are, and a digest by which two copies of the same key can be told to be the same.

Shapes: as the services publish them (``knowledge`` of the secret scanners of GitHub and Hugging Face's TruffleHog).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_SHOWN = 4
_SHORT = 20
_ENTROPY = 3.0  # bits per character; words and placeholders have less
_MOST = 200


@dataclass(frozen=True, slots=True)
class Secret:
    """A hit: which rule, where (byte offset), how it begins, its length, and the first 8 hex digits of its SHA-256.

    `grave` is False for what merely tells where the run was made (a user's name in a path, a host).
    """

    rule: str
    what: str
    offset: int
    hint: str
    grave: bool = True


@dataclass(frozen=True, slots=True)
class _Shape:
    rule: str
    what: str
    anchor: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    grave: bool = True
    mixed: bool = False  # must hold both letters and digits


def _shape(rule: str, what: str, anchor: str, pattern: str, *, grave: bool = True, mixed: bool = False) -> _Shape:
    return _Shape(
        rule, what, tuple(part.encode() for part in anchor.split()), re.compile(pattern.encode("latin-1")), grave, mixed
    )


# No letter stands before a key, but for one that is the length of the string or an opcode, behind a byte that is no text.
_W = r"(?:(?<![A-Za-z0-9_])|(?<=[\x00-\x1f\x80-\xff][A-Za-z0-9_]))"
# The same for shapes that may hold hyphens: begun behind each of them, a long run would be read over and over.
_WD = r"(?:(?<![A-Za-z0-9_-])|(?<=[\x00-\x1f\x80-\xff][A-Za-z0-9_]))"
_SHAPES: tuple[_Shape, ...] = (
    _shape("SEC-HF", "a Hugging Face token", "hf_", _W + r"hf_[A-Za-z0-9]{34,40}(?![A-Za-z0-9])", mixed=False),
    _shape("SEC-HF", "a Hugging Face organisation token", "api_org_", _W + r"api_org_[A-Za-z0-9]{34}(?![A-Za-z0-9])"),
    _shape("SEC-ANTHROPIC", "an Anthropic key", "sk-ant-", _W + r"sk-ant-[a-z0-9]+-[A-Za-z0-9_-]{20,}", mixed=True),
    _shape(
        "SEC-OPENAI",
        "an OpenAI key",
        "sk-",
        _W + r"sk-(?!ant-)(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{20,}",
        mixed=True,
    ),
    _shape("SEC-GITHUB", "a GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", _W + r"gh[pousr]_[A-Za-z0-9]{36,}"),
    _shape("SEC-GITHUB", "a GitHub token", "github_pat_", _W + r"github_pat_[A-Za-z0-9_]{60,}"),
    _shape("SEC-GITLAB", "a GitLab token", "glpat-", _W + r"glpat-[A-Za-z0-9_-]{20,}"),
    _shape("SEC-AWS", "an AWS access key", "AKIA ASIA", _W + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", mixed=True),
    _shape("SEC-GCP", "a Google API key", "AIza", _W + r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])", mixed=True),
    _shape("SEC-GCP", "a Google service account", "service_account", r'"type"\s*:\s*"service_account"'),
    _shape("SEC-AZURE", "an Azure storage key", "AccountKey=", r"AccountKey=[A-Za-z0-9+/]{86}=="),
    _shape("SEC-SLACK", "a Slack token", "xox", _W + r"xox[abprs]-[A-Za-z0-9-]{10,}", mixed=True),
    _shape(
        "SEC-JWT", "a JSON web token", ".eyJ", _WD + r"eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{10,}"
    ),
    _shape("SEC-PEM", "a private key", "PRIVATE KEY-----", r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    _shape("SEC-WANDB", "a Weights & Biases key", "wandb_v1_", _W + r"wandb_v1_[A-Za-z0-9_]{20,}"),
    _shape(
        "SEC-WANDB",
        "a Weights & Biases key",
        "wandb WANDB api_key",
        r"(?i)(?:wandb[a-z_.-]{0,24}|api_key)[\"'\s:=\\q\x00-\x1fX]{1,16}[0-9a-f]{40}(?![0-9a-f])",
    ),
    _shape(
        "SEC-URL",
        "a password in a URL",
        "://",
        r"[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^/\s:@\"'<>{}\x00-\x20]{1,80}:[^/\s@\"'<>{}\x00-\x20]{3,120}@",
    ),
    _shape(
        "PRIV-PATH",
        "a user's home directory",
        "/home/ /Users/ \\Users\\",
        r"(?:/home/|/Users/|[A-Za-z]:\\{1,4}Users\\{1,4})[A-Za-z0-9._-]{2,40}",
        grave=False,
    ),
    _shape(
        "PRIV-HOST",
        "the name of a machine",
        "runs/",
        r"runs/[A-Z][a-z]{2}\d{2}_\d{2}-\d{2}-\d{2}_[A-Za-z0-9.-]{2,60}",
        grave=False,
    ),
    _shape(
        "PRIV-HOST",
        "the name of a machine",
        ".internal .corp .local",
        _WD + r"[A-Za-z0-9-]{2,40}+\.(?:internal|corp|local)(?![A-Za-z0-9.])",
        grave=False,
    ),
    _shape(
        "PRIV-IP",
        "an address of a private network",
        "10. 172. 192.168.",
        r"(?<![\d.])(?:10\.\d{1,3}|172\.(?:1[6-9]|2\d|3[01])|192\.168)\.\d{1,3}\.\d{1,3}(?![\d.])",
        grave=False,
    ),
)
_ENVIRONMENT = re.compile(rb"(?m)^(?:export )?([A-Z][A-Z0-9_]{2,60})=\S")
_TELLTALE = frozenset({b"PATH", b"HOME", b"USER", b"HOSTNAME", b"LD_LIBRARY_PATH"})
_TELLTALE_PREFIXES = (b"SLURM_", b"KUBERNETES_", b"AWS_", b"WANDB_")
_KEY_NAME = re.compile(
    r"(?:^|[_.\-])(?:token|secret|password|passwd|api_?key|access_?key|credential|credentials|private_?key)$",
    re.IGNORECASE,
)
_NO_SECRET_NAME = re.compile(
    r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|eot|eom|sot|bot|image|video|audio|vision|start|end|stop|think|special|added|"
    r"additional|fill|prefix|suffix|middle|decoder|boi|eoi|new|content|group|tool|user|system|assistant|object|box|quad|"
    r"ref|im|fim|repo|file|space|sample|extra|language|lang|task|tgt|src)(?:_[a-z0-9]+)*_token$|^token$",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"^(?:<.*>|\*+|x+|none|null|true|false|your[_\- ].*|.*(?:changeme|placeholder|example|dummy|redacted|insert).*|\$\{?.*|\.+|)$",
    re.IGNORECASE | re.DOTALL,
)


def find_secrets(data: bytes) -> Iterator[Secret]:
    """Every hit of a known shape, in order of the rules; the same value once per rule."""
    seen: set[tuple[str, bytes]] = set()
    for shape in _SHAPES:
        if not any(anchor in data for anchor in shape.anchor):
            continue
        for match in shape.pattern.finditer(data):
            raw = match.group()
            if (shape.rule, raw) in seen:
                continue
            seen.add((shape.rule, raw))
            if len(seen) > _MOST:
                return
            if shape.grave and _is_placeholder(raw, shape):
                continue
            yield Secret(shape.rule, shape.what, match.start(), _hint(raw, shape), shape.grave)
    yield from _environment(data)


def find_named(name: str, value: object) -> Secret | None:
    """A secret by the name it stands under; a special token of a tokenizer or a placeholder is none."""
    if not isinstance(value, str) or not 6 <= len(value) <= 4096 or any(blank in value for blank in " \n\t"):
        return None
    if not _KEY_NAME.search(name) or _NO_SECRET_NAME.search(name) or _PLACEHOLDER.match(value):
        return None
    if len(value) < 12 and name.lower().endswith("token"):
        return None
    if _entropy(value.encode("utf-8", "replace")) <= _ENTROPY:
        return None
    return Secret("SEC-KEYNAME", "a value under the name of a key", 0, _digest(value.encode("utf-8", "replace")))


def _is_placeholder(raw: bytes, shape: _Shape) -> bool:
    body = raw.rpartition(b"_")[2] if shape.rule in ("SEC-HF", "SEC-GITHUB") else raw
    if shape.rule in ("SEC-PEM", "SEC-GCP") and not shape.mixed:
        return False
    if shape.rule == "SEC-URL":
        password = raw.partition(b"://")[2].rpartition(b"@")[0].partition(b":")[2]
        return _PLACEHOLDER.match(password.decode("latin-1")) is not None or len(set(password)) < 3
    if len(set(body)) < 8:
        return True
    if re.search(rb"(?i)(?:x{8}|your|example|placeholder|1234567890abcdef|abcdefghijkl)", body):
        return True
    letters = any(65 <= byte <= 90 or 97 <= byte <= 122 for byte in raw[4:])
    digits = any(48 <= byte <= 57 for byte in raw)
    return shape.mixed and not (letters and digits)


def _environment(data: bytes) -> Iterator[Secret]:
    """A dump of the environment: five assignments and more, one of them a telltale."""
    if b"PATH=" not in data and b"HOME=" not in data and b"SLURM_" not in data and b"KUBERNETES_" not in data:
        return
    names = []
    for match in _ENVIRONMENT.finditer(data):
        names.append((match.group(1), match.start()))
        if len(names) > _MOST:
            break
    telltale = [name for name, _ in names if name in _TELLTALE or name.startswith(_TELLTALE_PREFIXES)]
    if len(names) >= 5 and telltale:
        yield Secret("SEC-ENVDUMP", "a dump of environment variables", names[0][1], f"{len(names)} variables")


def _hint(raw: bytes, shape: _Shape) -> str:
    return _digest(raw) if shape.grave else f"{len(raw)} characters"


def _digest(raw: bytes) -> str:
    if len(raw) < _SHORT:  # of a short password neither a part nor a digest may be shown
        return f"{len(raw)} characters"
    begin = raw[:_SHOWN].decode("ascii", "replace")
    return f"{begin}..., {len(raw)} characters, sha256 {hashlib.sha256(raw).hexdigest()[:8]}"


def _entropy(raw: bytes) -> float:
    counts = Counter(raw)
    return -sum(count / len(raw) * math.log2(count / len(raw)) for count in counts.values())
