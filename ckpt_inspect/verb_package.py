"""A package that bears a public verb's name can be called: ``ckpt_inspect.scan`` is the room and the door at once.

The attribute `scan` of `ckpt_inspect` becomes the package as soon as anything in it is imported, so a function of the
same name would be there on some days only. The verb itself is where ``ckpt_inspect.PUBLIC`` says.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class VerbPackage(ModuleType):
    """A module that forwards calls, and questions about its signature, to the verb."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the verb."""
        return _verb(self.__name__)(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        """The verb's, for ``help`` and notebooks."""
        return inspect.signature(_verb(self.__name__))


def is_a_verb(name: str) -> None:
    """Let the package `name`, which is being imported, be called."""
    sys.modules[name].__class__ = VerbPackage


def _verb(package: str) -> Any:
    top, _, name = package.partition(".")
    return getattr(import_module(sys.modules[top].PUBLIC[name]), name)
