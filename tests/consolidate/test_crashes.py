"""Killed, out of space, refused by the system, raced: never half an output, never a changed file, one line of error."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from consolidate.making import CONFIG, make_checkpoint, parameter, snapshot

from builders.deepspeed import Model  # isort: skip

from ckpt_inspect.cli.app import main
from ckpt_inspect.consolidate import commit, execute, rename
from ckpt_inspect.consolidate.api import consolidate, verify_consolidation
from ckpt_inspect.consolidate.commit import MARK, OutputExistsError, Staging, partials
from ckpt_inspect.errors import CkptInspectError, ConsolidationError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be killed")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A run with a checkpoint of a few megabytes, and an older output beside it."""
    run = tmp_path_factory.mktemp("crashes")
    model = Model([parameter(f"layers.{index}.weight", 96, 320) for index in range(24)])
    make_checkpoint(run, model=model, config=CONFIG)
    consolidate(run / "checkpoint-8", run / "older", only=["layers.1.*"])
    return run


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its process id."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        work()
        code = 0
    except CkptInspectError:
        code = 1
    except BaseException:  # noqa: BLE001
        code = 98
    finally:
        os._exit(code)


def exit_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_whole(output: Path) -> None:
    report = verify_consolidation(output)
    assert report.ok, report.problems
    assert report.shards == "equal"


def leftovers(run: Path) -> list[Path]:
    return [path for path in run.iterdir() if MARK in path.name]


@pytest.mark.parametrize(("replace", "kills"), [(False, 200), (True, 100)])
def test_killed_at_any_moment_the_output_is_whole_or_absent(replace, kills, workplace):
    run, target = workplace, workplace / f"killed-{replace}"
    consolidate(run / "checkpoint-8", target, max_shard_size="500KB")
    began = time.monotonic()
    consolidate(run / "checkpoint-8", target, max_shard_size="500KB", replace=True)
    usual = time.monotonic() - began
    before = {name: data for name, data in snapshot(run).items() if not name.startswith(target.name)}
    chance = random.Random(20240607)
    died = finished = 0
    for _ in range(kills):
        if not replace:
            shutil.rmtree(target, ignore_errors=True)
        child = in_child(
            lambda: consolidate(run / "checkpoint-8", target, max_shard_size="500KB", replace=replace) and None
        )
        time.sleep(chance.uniform(0, 1.3 * usual))
        os.kill(child, signal.SIGKILL)
        code = exit_of(child)
        died += code == -signal.SIGKILL
        finished += code == 0
        assert code in (0, -signal.SIGKILL)
        if replace or target.exists():
            assert_whole(target)
        for path in leftovers(run):
            assert not any(partial.locked for partial in partials(target)), "the lock dies with its holder"
            shutil.rmtree(path)
    assert died >= kills // 3, "the kills came too late to prove anything"
    assert {name: data for name, data in snapshot(run).items() if not name.startswith(target.name)} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_can_be_caught_leaves_nothing(number, workplace):
    run, target = workplace, workplace / "signalled"
    cleaned = 0
    for delay in (0.0, 0.003, 0.01, 0.02, 0.03, 0.05, 0.08):
        began = os.pipe()

        def work(pipe=began):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            original = Staging.create

            def tell(self, name, size):
                os.write(pipe[1], b"x")
                return original(self, name, size)

            Staging.create = tell
            consolidate(run / "checkpoint-8", target, max_shard_size="500KB")

        child = in_child(work)
        os.close(began[1])
        os.read(began[0], 1)
        os.close(began[0])
        time.sleep(delay)
        for _ in range(3):  # impatience must not interrupt the cleaning up
            os.kill(child, number)
        code = exit_of(child)
        assert leftovers(run) == []
        if target.exists():
            assert_whole(target)
            shutil.rmtree(target)
        else:
            assert code in (1, 98)
            cleaned += 1
    assert cleaned


def test_of_two_processes_on_one_output_one_wins_and_the_other_says_so(workplace):
    run, target = workplace, workplace / "raced"
    for round_ in range(25):
        children = [in_child(lambda: consolidate(run / "checkpoint-8", target) and None) for _ in range(2)]
        codes = sorted(exit_of(child) for child in children)
        assert codes == [0, 1], f"round {round_}"
        assert_whole(target)
        assert leftovers(run) == []
        shutil.rmtree(target)


def test_a_live_writer_is_named_and_a_dead_one_is_reported_then_removed(workplace, capfd):
    run, target = workplace, workplace / "busy"
    with Staging(target) as first:
        assert main(["consolidate", str(run / "checkpoint-8"), "-o", str(target)]) == 1
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert f"is being written by process {os.getpid()}" in said
        assert first.path.exists(), "the other must not touch what a live process writes"
    dead = target.with_name(f".{target.name}{MARK}999999.{time.time_ns():x}-abcdef")
    old = target.with_name(f".{target.name}{MARK}999998.{time.time_ns() - 2 * 86400 * 10**9:x}-abcdef")
    other = target.with_name(f".someone else{MARK}999998.1-abcdef")
    for path in (dead, old, other):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    result = consolidate(run / "checkpoint-8", target)
    assert any(dead.name in warning and "can be deleted" in warning for warning in result.warnings)
    assert any(old.name in warning and "removed" in warning for warning in result.warnings)
    assert dead.exists()
    assert other.exists()
    assert not old.exists()
    for path in (dead, other, target):
        shutil.rmtree(path)


WRITERS = ["mkdir", "open", "write", "pwrite", "fsync", "posix_fallocate", "copy_file_range", "ftruncate", "chmod",
           "close", "rename"]  # fmt: skip


class Injector:
    """Makes the Nth call of one writing function fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, function: str, number: int, error: int) -> None:
        self.fired = False
        self.calls = 0
        self.created: set[int] = set()
        real_open, real_close = os.open, os.close

        def fail(*arguments):
            self.calls += 1
            if self.calls == number:
                self.fired = True
                raise OSError(error, os.strerror(error))

        def opening(path, flags, *rest, **named):
            if flags & os.O_CREAT and function == "open":
                fail()
            descriptor = real_open(path, flags, *rest, **named)
            if flags & os.O_CREAT:
                self.created.add(descriptor)
            return descriptor

        def closing(descriptor):
            real_close(descriptor)
            if descriptor in self.created:
                self.created.discard(descriptor)
                if function == "close":
                    fail()

        monkeypatch.setattr(os, "open", opening)
        monkeypatch.setattr(os, "close", closing)
        if function == "rename":
            for module in (commit, rename):
                for name in ("rename_to_new",):
                    real = getattr(module, name)
                    monkeypatch.setattr(module, name, lambda *a, real=real: (fail(), real(*a))[1])
        elif function not in ("open", "close"):
            real_function = getattr(os, function)

            def wrapped(*arguments, **named):
                fail()
                return real_function(*arguments, **named)

            monkeypatch.setattr(os, function, wrapped)


NOT_USED = {("copy_file_range", "direct"), ("ftruncate", "kernel")}


@pytest.mark.parametrize(
    ("function", "way"),
    [pair for pair in itertools.product(WRITERS, ["direct", "kernel"]) if pair not in NOT_USED],
)
def test_every_call_that_writes_may_fail_once(function, way, tmp_path, monkeypatch):
    if not hasattr(os, function) and function != "rename":
        pytest.skip(f"no {function} here")
    model = Model([parameter(f"layers.{index}.weight", 40, 30) for index in range(3)])
    checkpoint = make_checkpoint(tmp_path, model=model, config=CONFIG)
    monkeypatch.setattr(commit, "DIRECT_MINIMUM", 0)
    if way == "kernel":
        monkeypatch.setattr(commit, "supports_direct_writes", lambda path: function == "posix_fallocate")
        monkeypatch.setattr(commit, "DIRECT_MINIMUM", 1 << 40)
    before = snapshot(tmp_path)
    failed = 0
    for number in range(1, 200):
        error = (errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT, errno.EACCES)[number % 6]
        with monkeypatch.context() as patch:
            injector = Injector(patch, function, number, error)
            result = None
            try:
                result = consolidate(checkpoint, tmp_path / "out", max_shard_size="6KB", jobs=1 + number % 2)
            except ConsolidationError:
                failed += 1
        if result is None:
            assert injector.fired
            assert snapshot(tmp_path) == before, f"{function} number {number} left something"
            continue
        assert_whole(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        if not injector.fired:
            break
    else:
        pytest.fail("the calls do not end")
    assert failed, "no failure was injected"
    assert snapshot(tmp_path) == before


def test_a_parent_that_cannot_be_synchronised_is_said_and_the_output_stays(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    real = commit.sync_directory

    def refuse(path):
        if path == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(commit, "sync_directory", refuse)
    result = consolidate(checkpoint, tmp_path / "out")
    assert any("may not survive a power failure" in warning for warning in result.warnings)
    assert_whole(tmp_path / "out")


@pytest.mark.parametrize("limit", [1, 500, 4096, 100_000, 900_000])
def test_a_file_size_limit_is_an_error_and_nothing_is_left(limit, workplace):
    resource = pytest.importorskip("resource")
    target = workplace / "limited"

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        consolidate(workplace / "checkpoint-8", target)

    assert exit_of(in_child(work)) == 1
    assert not target.exists()
    assert leftovers(workplace) == []


SPACE = """
import os, sys
from pathlib import Path
from ckpt_inspect.cli.app import main
from ckpt_inspect.consolidate import commit
target = Path(sys.argv[2]) / "out"
if sys.argv[3] == "blind":
    commit.free_bytes = lambda path: None
code = main(["consolidate", sys.argv[1], "-o", str(target), "--max-shard-size", "500KB", "-q"])
print(code, sorted(os.listdir(sys.argv[2])))
if code == 0:
    print("verified", main(["consolidate", str(target), "--verify-only", "-q"]))
"""


@pytest.mark.parametrize("size", ["16k", "64k", "600k", "1500k", "2900k", "16m"])
@pytest.mark.parametrize("check", ["checked", "blind"])
def test_a_full_disk_leaves_nothing(size, check, workplace, tmp_path):
    mount = tmp_path / "full"
    mount.mkdir()
    script = tmp_path / "space.py"
    script.write_text(SPACE)
    command = (
        f'mount -t tmpfs -o size={size} tmpfs "{mount}" || exit 77; '
        f'"{sys.executable}" "{script}" "{workplace}/checkpoint-8" "{mount}" {check}'
    )
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare")
    done = subprocess.run([unshare, "-rm", "sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode in (1, 77) and "[" not in done.stdout:
        pytest.skip("no user namespaces here")
    if size == "16m":
        assert done.stdout.splitlines()[-1] == "verified 0"
        return
    assert done.stdout.splitlines() == ["1 []"], done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert ("are free" if check == "checked" else "no space left") in done.stderr


STRACE = ["fsync", "pwrite64", "write", "renameat2", "mkdir", "fallocate", "ftruncate", "copy_file_range"]


@pytest.mark.slow
@pytest.mark.parametrize("call", STRACE)
@pytest.mark.parametrize(("action", "code"), [("error=EIO", 1), ("signal=KILL", None)])
def test_the_system_itself_refuses_or_kills_at_a_call(call, action, code, workplace, tmp_path):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    target = workplace / f"traced-{call}"
    before = snapshot(workplace)
    for number in (1, 2, 3):
        done = subprocess.run(
            [strace, "-f", "-qq", "-o", str(tmp_path / "log"), "-e", f"trace={call}",
             "-e", f"inject={call}:{action}:when={number}", "-P", str(workplace), "--",
             sys.executable, "-m", "ckpt_inspect", "consolidate", str(workplace / "checkpoint-8"), "-o", str(target), "-q"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "ptrace" in done.stderr:
            pytest.skip("tracing is not allowed here")
        for path in leftovers(workplace):
            assert code is None
            shutil.rmtree(path)
        if target.exists():
            assert_whole(target)
            shutil.rmtree(target)
        elif code is not None:
            assert done.returncode == code, done
            assert len(done.stderr.splitlines()) == 1, done.stderr
        assert snapshot(workplace) == before


def test_an_output_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    real = execute.build_record

    def appear(draft):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("x")
        return real(draft)

    monkeypatch.setattr(execute, "build_record", appear)
    with pytest.raises(OutputExistsError, match="another process was faster"):
        consolidate(checkpoint, tmp_path / "out")
    assert snapshot(tmp_path / "out") == {"theirs": b"x"}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("atomic", [True, False])
def test_renames_work_without_the_atomic_calls_too(atomic, tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    if not atomic:
        monkeypatch.setattr(rename, "_function", lambda: None)
    consolidate(checkpoint, tmp_path / "out")
    consolidate(checkpoint, tmp_path / "out", dtype="bfloat16", replace=True)
    assert json.loads((tmp_path / "out" / "consolidation.json").read_text())["dtype"] == "bfloat16"
    assert leftovers(tmp_path) == []
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").mkdir()
    with pytest.raises(FileExistsError):
        rename.rename_to_new(tmp_path / "a", tmp_path / "b")


def test_a_failed_exchange_puts_the_old_output_back(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, config=CONFIG)
    consolidate(checkpoint, tmp_path / "out")
    before = snapshot(tmp_path)
    monkeypatch.setattr(rename, "_function", lambda: None)

    def refuse(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(commit, "rename_to_new", refuse)
    with pytest.raises(ConsolidationError, match="Input/output error"):
        consolidate(checkpoint, tmp_path / "out", dtype="bfloat16", replace=True)
    assert snapshot(tmp_path) == before
