"""CKP5xx: what loading a file would run, hidden content, hostile templates, secrets. The engine is :mod:`ckpt_inspect.scan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_inspect import knowledge
from ckpt_inspect.printable import printable
from ckpt_inspect.rules.faults import faults_of, hits
from ckpt_inspect.rules.finding import Hit, capitalised
from ckpt_inspect.rules.registry import rule
from ckpt_inspect.rules.subject import Subject

if TYPE_CHECKING:
    from ckpt_inspect.scan.verdicts import ScanFinding, ScanReport

_KEY = "rule_scan"
_MOST = 3
_DEEPSPEED_SCRIPTS = ("zero_to_fp32_script", "zero_to_torch_script")


def _scan(subject: Subject) -> ScanReport:
    memo = subject.run.memo
    if _KEY not in memo:
        from ckpt_inspect.scan import scan_tree

        memo[_KEY] = scan_tree(subject.run.tree, progress=subject.progress, loads=False)
    report: ScanReport = memo[_KEY]
    return report


def _scanned(subject: Subject, code: str) -> Iterator[Hit]:
    """The scan's findings of one rule, one hit per file."""
    table = knowledge.faults()
    for file in _scan(subject).files:
        found = [finding for finding in file.findings if table.get(finding.kind, {}).get("rule") == code]
        if file.artifact in _DEEPSPEED_SCRIPTS:  # DeepSpeed puts its own scripts there; only a changed one is news
            found = [finding for finding in found if finding.kind != "scan-python"]
        if not found:
            continue
        sentences = list(dict.fromkeys(_sentence(finding) for finding in found))
        more = f" And {len(sentences) - _MOST} more." if len(sentences) > _MOST else ""
        yield Hit(
            file.path,
            " ".join(sentences[:_MOST]) + more,
            table[found[0].kind].get("remedy"),
            severity=found[0].severity,
            evidence={
                "verdict": file.verdict,
                "coverage": file.coverage,
                "kinds": sorted({item.kind for item in found}),
            },
        )


def _read_or_scanned(subject: Subject, code: str) -> Iterator[Hit]:
    """The faults of one rule that the readers met, and those of files that only a scan opens."""
    yield from hits(subject, code)
    if subject.is_root and subject.thorough:
        table = knowledge.faults()
        told = {
            path
            for place in subject.run.states
            for path, fault in faults_of(place)
            if table.get(fault.kind, {}).get("rule") == code
        }
        yield from (hit for hit in _scanned(subject, code) if hit.path not in told)


def _sentence(finding: ScanFinding) -> str:
    where = f" at byte {finding.offset:,}" if finding.offset is not None else ""
    which = f" ({printable(finding.place, 80)})" if finding.place else ""
    return f"{capitalised(finding.message)}{where}{which}."


@rule("CKP501", "dangerous-call", "error", scope="run", thorough=True)
def dangerous_call(subject: Subject) -> Iterator[Hit]:
    """Loading a file would run code that has no place in a checkpoint.

    Why it matters: a pickle is a program; this one calls something that runs commands, opens files or connections, or calls
    what it computed itself to hide the name.

    How to fix: do not load the file. Take the weights in safetensors form, or from someone you trust.

    Example: `posix.system` in rng_state.pth.

    Source: CPython documentation of pickle ("not secure"), object.__reduce__; every call is judged where it happens
    (fickling CVE-2026-22608).
    """
    yield from _scanned(subject, "CKP501")


@rule("CKP502", "dangerous-name", "error", scope="run", thorough=True)
def dangerous_name(subject: Subject) -> Iterator[Hit]:
    """A file names code that could do harm, without calling it in a way that was followed.

    Why it matters: naming is the first half of an attack, and importing a module can run code by itself.

    How to fix: do not load the file.

    Example: a reference to `builtins.eval` stored as a value.

    Source: picklescan CVE-2025-1716, CVE-2025-10157, CVE-2026-56315: names that deny-lists missed, private twins
    and dotted names.
    """
    yield from _scanned(subject, "CKP502")


@rule("CKP503", "unknown-global", "warning", scope="run", thorough=True)
def unknown_global(subject: Subject) -> Iterator[Hit]:
    """A file names a class or function that is in no table of known training artifacts.

    Why it matters: loading it imports that module and may call it; whether that is harmless is not known.

    How to fix: if the class is yours, that is what it is; if the file comes from others, ask for safetensors.

    Example: `my_project.callbacks.MyCallback` in training_args.bin.

    Source: names that torch, transformers, peft, trl, accelerate and deepspeed write are listed in
    ckpt_inspect/knowledge/pickle_globals.toml.
    """
    yield from _scanned(subject, "CKP503")


@rule("CKP504", "unexpected-global", "warning", scope="run", thorough=True)
def unexpected_global(subject: Subject) -> Iterator[Hit]:
    """A file names something known, but not known to belong into such a file.

    Why it matters: scheduler.pt is plain data; a class in it means that somebody else wrote it, or that it was changed.

    How to fix: compare with the same file of another checkpoint.

    Example: `transformers.training_args.TrainingArguments` in optimizer.pt.

    Source: which names belong in which artifact: ckpt_inspect/knowledge/pickle_globals.toml.
    """
    yield from _scanned(subject, "CKP504")


@rule("CKP505", "hidden-program", "warning", scope="run", thorough=True)
def hidden_program(subject: Subject) -> Iterator[Hit]:
    """A file holds a second pickle, trailing bytes, two identities, or objects that only its loader could resolve.

    Why it matters: what one tool reads is then not all that another would run.

    How to fix: do not load the file unless you know why it is so.

    Example: a pickle behind the end of a pickle.

    Source: picklescan CVE-2025-10155 (file extension), CVE-2025-1889 (inner name); EXT and PERSID opcodes of
    pickle; files of two formats.
    """
    yield from _scanned(subject, "CKP505")


@rule("CKP506", "content-not-covered", "warning", scope="run", thorough=True)
def content_not_covered(subject: Subject) -> Iterator[Hit]:
    """Part of a file's content could not be looked at: compressed, nested too deep, encrypted, or over a limit.

    Why it matters: a scan that saw a part is no clean bill.

    How to fix: unpack the file and scan what is inside.

    Example: a 7z archive called model.bin.

    Source: ReversingLabs, nullifAI (2025-02): broken pickles and 7z archives that scanners passed over.
    """
    yield from _scanned(subject, "CKP506")


@rule("CKP507", "code-in-run", "note", scope="run", thorough=True)
def code_in_run(subject: Subject) -> Iterator[Hit]:
    """The directory holds code: scripts, model code that trust_remote_code would run, or an executable.

    Why it matters: code that comes with weights runs with your rights.

    How to fix: read it before you run it; use the installed library's own scripts.

    Example: a `modeling_x.py` named by auto_map, or a zero_to_fp32.py that is not DeepSpeed's.

    Source: transformers 5.23.0 dynamic_module_utils.py: code beside the weights runs with trust_remote_code.
    """
    yield from _scanned(subject, "CKP507")


@rule("CKP510", "pickle-broken", "error")
def pickle_broken(subject: Subject) -> Iterator[Hit]:
    """A pickle does not follow the machine's rules.

    Why it matters: Python stops in the middle of it, after having run what stands before. Damage and attacks both look so.

    How to fix: get the file again; do not load it.

    Example: a program that pops from an empty stack after a call.

    Source: CPython Modules/_pickle.c; ReversingLabs "nullifAI", 2025.
    """
    yield from _read_or_scanned(subject, "CKP510")


@rule("CKP511", "pickle-read-two-ways", "error")
def pickle_read_two_ways(subject: Subject) -> Iterator[Hit]:
    """A pickle means different things to different unpicklers.

    Why it matters: scanners and loaders then see different programs; no writer produces such streams by accident.

    How to fix: do not load the file.

    Example: a constant that crosses the end of its frame: CPython's C machine skips what follows.

    Source: cpython issues 126992, 154848 (FRAME overrun), fickling issue 317: unpicklers that read one stream
    differently.
    """
    yield from _read_or_scanned(subject, "CKP511")


@rule("CKP512", "pickle-unusual", "warning")
def pickle_unusual(subject: Subject) -> Iterator[Hit]:
    """A pickle uses what no training library writes, or so much that a limit was met.

    Why it matters: memo bombs, huge indexes and deep nesting exhaust memory when loaded.

    How to fix: do not load the file unless you know its writer.

    Example: 150 bytes that expand to 2^60 values.

    Source: CPython Lib/pickletools.py, the opcodes' definitions.
    """
    yield from _read_or_scanned(subject, "CKP512")


@rule("CKP520", "path-escapes", "error")
def path_escapes(subject: Subject) -> Iterator[Hit]:
    """A name inside a file leads out of the directory.

    Why it matters: a loader that joins it without looking reads or overwrites files elsewhere; transformers does not check
    shard names in an index.

    How to fix: do not use the file.

    Example: `"weight_map": {"w": "../../../home/me/.ssh/id_rsa"}`.

    Source: transformers issues 46097, 47176; CWE-22.
    """
    yield from _read_or_scanned(subject, "CKP520")


@rule("CKP521", "zip-bomb", "error")
def zip_bomb(subject: Subject) -> Iterator[Hit]:
    """An archive inflates to far more than it is, or hides archives in archives.

    Why it matters: unpacking it fills memory or disk. torch stores its members uncompressed.

    How to fix: do not load the file.

    Example: 200 MB of zeros in 190 kB.

    Source: CWE-409; limits are in ckpt_inspect/knowledge/scan.toml.
    """
    yield from _read_or_scanned(subject, "CKP521")


@rule("CKP530", "hostile-template", "error", scope="run", thorough=True)
def hostile_template(subject: Subject) -> Iterator[Hit]:
    """A chat template reaches for Python's internals, loads other files, or never ends.

    Why it matters: some servers render templates without a sandbox; a sandbox does not stop endless loops.

    How to fix: replace the template with the base model's.

    Example: `{{ ''.__class__.__mro__[1].__subclasses__() }}`.

    Source: CVE-2024-34359 (llama-cpp-python), CVE-2026-5760 (SGLang).
    """
    yield from _scanned(subject, "CKP530")


@rule("CKP531", "odd-template", "warning", scope="run", thorough=True)
def odd_template(subject: Subject) -> Iterator[Hit]:
    """A chat template does something templates rarely need.

    Why it matters: it may be slow, or fail in servers with another version of jinja2.

    How to fix: compare it with the base model's template.

    Example: a template of 2 MB.

    Source: jinja2 3.1 sandbox.py: the sandbox stops code, not time or memory.
    """
    yield from _scanned(subject, "CKP531")


@rule("CKP540", "secret", "error", scope="run", thorough=True)
def secret(subject: Subject) -> Iterator[Hit]:
    """A file holds a token, key or password.

    Why it matters: training_args.bin stores hub_token in clear; who gets the file gets the token. It is never printed here.

    How to fix: revoke it, set the argument to None and save again.

    Example: `hub_token` in training_args.bin.

    Source: transformers 5.23.0 training_args.py: to_dict masks hub_token, torch.save(args) does not.
    """
    yield from _scanned(subject, "CKP540")


@rule("CKP541", "private-detail", "note", scope="run", thorough=True)
def private_detail(subject: Subject) -> Iterator[Hit]:
    """A file tells the name of a user, host, internal address or home directory.

    Why it matters: harmless on your own machine, unwanted in a public repository.

    How to fix: nothing, unless you publish the directory.

    Example: `/home/anna/data` in training_args.bin.

    Source: transformers 5.23.0 training_args.py: torch.save(args) keeps paths, host and user names.
    """
    yield from _scanned(subject, "CKP541")
