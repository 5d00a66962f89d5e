"""Which values of a configuration are secrets, and what is shown instead of them.

``TrainingArguments`` keeps `hub_token` (and up to 4.57 `push_to_hub_token`) in clear in training_args.bin: `to_dict` masks
names that end in `_token`, pickle does not. A value counts as a secret by the name it stands under, or by its own shape
where a service gives its keys one.
"""

from __future__ import annotations

import re
from typing import Any

_NAMES = re.compile(
    r"(^|_)(tokens?|secrets?|passwords?|passwd|pwd|credentials?|api_?keys?|access_?keys?|private_?keys?|auth)$"
    r"|(^|_)(secret|password|credential|api_?key|auth_token|access_token)(_|$)",
    re.IGNORECASE,
)
# Special tokens of a tokenizer are named alike and are no secrets: eos_token, pad_token, image_token, ...
_VOCABULARY = re.compile(
    r"(^|_)(bos|eos|pad|unk|sep|cls|mask|eot|eom|sot|bot|image|video|audio|vision|start|end|stop|think|special|added|"
    r"additional|fill|prefix|suffix|middle|decoder|boi|eoi|new|max|num|min|per|of|completion|prompt|input|output|label|"
    r"generated|loss|budget)(_[a-z]+)?_tokens?$|^(stop|max|min|num|special|added|new)_?tokens?",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"hf_[A-Za-z0-9]{30,}"  # Hugging Face
    r"|sk-[A-Za-z0-9_-]{20,}"  # OpenAI and others
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}"  # AWS access key id
    r"|xox[abposr]-[A-Za-z0-9-]{10,}"  # Slack
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<user>[^/\s:@]*):(?P<password>[^/\s@]+)@", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether what stands under `name` is a token, key or password."""
    return _NAMES.search(name) is not None and _VOCABULARY.search(name) is None


def has_secret_shape(text: str) -> bool:
    """Whether a text holds a key in a shape that a known service gives its keys, or a password in a URL."""
    return _SHAPES.search(text) is not None or _USERINFO.search(text) is not None


def is_secret(name: str, value: object) -> bool:
    """Whether `value`, found under `name`, must not be shown."""
    if not isinstance(value, str) or not value:
        return False
    return is_secret_name(name) or has_secret_shape(value)


def masked(name: str, value: str) -> str:
    """What is shown in place of a secret."""
    return f"<{name}: {len(value)} characters>"


def without_secrets(name: str, value: Any, place: str, secrets: list[str]) -> Any:
    """`value` with every secret in it masked; their places are added to `secrets`."""
    if isinstance(value, dict):
        return {key: without_secrets(key, item, f"{place}.{key}", secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(name, item, place, secrets) for item in value]
    if is_secret(name, value):
        if place not in secrets:
            secrets.append(place)
        return masked(name, value)
    return value
