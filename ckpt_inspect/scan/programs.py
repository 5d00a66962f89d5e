"""Judges one pickle program: every name, call, state and persistent id it would resolve.

Effects are judged at the moment they happen, never from the resulting value: a call whose result is thrown away is still
a call. See ``docs/security.md`` for the reasoning behind each verdict.
"""

from __future__ import annotations

from ckpt_inspect.formats.pickle_nodes import Blob, Build, Call, Global, MethodCall, Node, Opaque, PersistentId
from ckpt_inspect.formats.pickle_program import PickleProgram
from ckpt_inspect.scan.collector import Collector
from ckpt_inspect.scan.guards import GUARDS, dunder_keys
from ckpt_inspect.scan.numpy_types import hides_objects
from ckpt_inspect.scan.tiers import Expectation, Standing, standing_of
from ckpt_inspect.scan.verdicts import GlobalUse, Verdict

_VERDICT_OF_TIER: dict[str, Verdict] = {"T0": "clean", "T1": "known", "T2": "unknown", "T3": "dangerous"}
_STORAGE_ARITY = (5, 6)


class ProgramJudge:
    """Judges the programs of one file.

    `torchscript`: they lie in an archive that brings its own classes. `legacy`: in a stream of torch before 1.6, whose
    persistent ids may name a class with its source text.
    """

    def __init__(
        self,
        collector: Collector,
        expectation: Expectation | None = None,
        *,
        torchscript: bool = False,
        legacy: bool = False,
    ) -> None:
        self._collector = collector
        self._expectation = expectation
        self._torchscript = torchscript
        self._legacy = legacy
        self._standings: dict[tuple[str, str], Standing] = {}
        self._named: dict[tuple[str, str], Global] = {}  # of the program at hand: names that are not allowed
        self._called: set[tuple[str, str]] = set()

    def judge(self, program: PickleProgram, place: str = "") -> None:
        """Add what `program` would do; its faults are the caller's to add."""
        self._named.clear()
        self._called.clear()
        for event in program.events:
            kind = type(event)
            if kind is Call:
                self._call(event, place)
            elif kind is PersistentId:
                self._persistent_id(event, place)
            elif kind is Build:
                self._build(event, place)
            elif kind is Global:
                self._name(event, place)
            elif kind is MethodCall:
                self._method(event, place)
            elif kind is Opaque and event.reason == "out-of-band buffer":
                self._collector.note("pickle-buffer", "suspicious", event.reason, place=place, offset=event.offset)

        for key, found in self._named.items():
            if key not in self._called:
                self._only_named(found, place)

    def _only_named(self, found: Global, place: str) -> None:
        """A name that is resolved, so that its module is imported, and not called in this program."""
        standing = self.standing(found)
        kind = "scan-denied-name" if standing.tier == "T3" else "scan-unknown-name"
        message = f"resolves {_shown(found)}: {standing.reason}{self._expected()}"
        self._collector.note(kind, _VERDICT_OF_TIER[standing.tier], message, place=place, offset=found.offset)

    def standing(self, found: Global) -> Standing:
        """Where a name stands, asked once per name."""
        key = (found.module, found.name)
        standing = self._standings.get(key)
        if standing is None:
            standing = self._standings[key] = standing_of(*key, torchscript=self._torchscript)
        return standing

    def _name(self, found: Global, place: str) -> None:
        standing = self.standing(found)
        first = (found.module, found.name) not in self._collector.names
        self._collector.name(found, "reference", standing, place)
        if standing.tier in ("T2", "T3"):
            self._named.setdefault((found.module, found.name), found)
        elif standing.tier == "T1":
            self._collector.raise_verdict("known")
        expected = self._expectation is None or standing.family in self._expectation.families
        if first and not expected and standing.tier in ("T0", "T1"):
            self._collector.note(
                "scan-unexpected-name",
                "known",
                f"names {_shown(found)} ({standing.reason}){self._expected()}",
                place=place,
                offset=found.offset,
            )

    def _expected(self) -> str:
        expectation = self._expectation
        return f"; this file ({expectation.title}) should hold {expectation.holds}" if expectation is not None else ""

    def _call(self, call: Call, place: str) -> None:
        callee = self._named_by(call.callee)
        if callee is None:
            self._collector.note(
                "scan-computed-call",
                "dangerous",
                "calls something that the stream itself computes",
                place=place,
                offset=call.offset,
            )
            return
        standing = self.standing(callee)
        use: GlobalUse = "instance" if call.how in ("NEWOBJ", "NEWOBJ_EX") else "call"
        self._collector.name(callee, use, standing, place)
        self._called.add((callee.module, callee.name))
        if standing.tier == "T3":
            self._collector.note(
                "scan-denied-call",
                "dangerous",
                f"calls {_shown(callee)}: {standing.reason}{self._expected()}",
                place=place,
                offset=call.offset,
            )
            return
        if standing.tier == "T2":
            self._collector.note(
                "scan-unknown-call",
                "unknown",
                f"{'makes an object of' if use == 'instance' else 'calls'} {_shown(callee)}: {standing.reason}{self._expected()}",
                place=place,
                offset=call.offset,
            )
            return
        if use not in standing.use and not (call.how in ("OBJ", "INST") and "instance" in standing.use):
            self._collector.note(
                "scan-misused-name",
                "suspicious",
                f"{'makes an object of' if use == 'instance' else 'calls'} {_shown(callee)}, which no library does",
                place=place,
                offset=call.offset,
            )
            return
        guard = GUARDS.get(standing.guard or "")
        complaint = guard(call, self.standing) if guard is not None else None
        if complaint is not None:
            self._collector.note(
                "scan-misused-call",
                complaint.verdict,
                f"{_shown(callee)} {complaint.message}",
                place=place,
                offset=call.offset,
            )

    def _named_by(self, callee: Node) -> Global | None:
        """The name a callee is: itself, or the class in a persistent id of a legacy stream."""
        if type(callee) is PersistentId and self._module_class(callee.pid) is not None:
            return self._module_class(callee.pid)
        return callee if type(callee) is Global else None

    def _module_class(self, pid: Node) -> Global | None:
        """The class of ``("module", class, file, source)``, as torch before 1.6 saves whole models."""
        if self._legacy and type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Global:
            return pid[1] if all(type(text) in (str, Blob, type(None)) for text in pid[2:]) else None
        return None

    def _build(self, build: Build, place: str) -> None:
        target = build.target
        keys = dunder_keys(build.state)
        if keys:
            self._collector.note(
                "scan-special-method",
                "dangerous",
                f"sets {keys[0]} on an object, which replaces how it behaves",
                place=place,
                offset=build.offset,
            )
        if type(target) is Global:
            self._collector.note(
                "scan-patched-name",
                "dangerous",
                f"sets attributes of {_shown(target)} itself",
                place=place,
                offset=build.offset,
            )
        elif hides_objects(build):
            self._collector.note(
                "scan-misused-call",
                "dangerous",
                "describes an array whose bytes numpy would take for pointers to objects",
                place=place,
                offset=build.offset,
            )
        elif type(target) is Call and (callee := self._named_by(target.callee)) is not None:
            standing = self.standing(callee)
            if standing.tier in ("T0", "T1") and standing.use and not self._takes_state(target, standing):
                self._collector.note(
                    "scan-misused-name",
                    "suspicious",
                    f"gives a state to the result of {_shown(callee)}, which no library does",
                    place=place,
                    offset=build.offset,
                )
        elif type(target) is PersistentId:
            self._collector.note(
                "scan-misused-name",
                "suspicious",
                "gives a state to what the loader resolves",
                place=place,
                offset=build.offset,
            )

    def _takes_state(self, target: Call, standing: Standing) -> bool:
        return (
            "state" in standing.use
            or standing.guard in ("reconstructor", "plain_state", "typed_tensor", "storage_tensor", "tensor_subclass")
            or standing.guard == "enum_member"
        )

    def _persistent_id(self, node: PersistentId, place: str) -> None:
        problem = self._pid_problem(node.pid)
        if problem is not None:
            self._collector.note("scan-persistent-id", "suspicious", problem, place=place, offset=node.offset)

    def _pid_problem(self, pid: Node) -> str | None:
        if type(pid) is not tuple or not pid:
            return "asks the loader for something that is no storage of a tensor"
        kind = pid[0].decode("latin-1") if type(pid[0]) is bytes else pid[0]
        if self._module_class(pid) is not None:
            return None
        if kind == "module":
            return "brings the source text of a class, which old versions of torch compare and write to a file"
        if kind != "storage" or len(pid) not in _STORAGE_ARITY:
            return "asks the loader for something that is no storage of a tensor"
        storage = pid[1]
        if type(storage) is not Global or self.standing(storage).family != "tensor":
            return "names a storage of a type that torch does not have"
        if type(pid[4]) is not int or pid[4] < 0:
            return "names a storage of an impossible size"
        return None

    def _method(self, event: MethodCall, place: str) -> None:
        target = event.target
        if type(target) is Global:
            verdict: Verdict = "dangerous" if self.standing(target).tier in ("T2", "T3") else "suspicious"
            self._collector.note(
                "scan-method-call",
                verdict,
                f"looks up {event.method} on {_shown(target)}",
                place=place,
                offset=event.offset,
            )
        else:
            self._collector.note(
                "scan-method-call",
                "suspicious",
                f"looks up {event.method} on a value that has none",
                place=place,
                offset=event.offset,
            )


def _shown(found: Global) -> str:
    """A name for a message; `printable` is applied by the collector."""
    return f"{found.module}.{found.name}"
