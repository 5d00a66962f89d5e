"""Files that run code when loaded, hide it, or are merely odd: one generator per published trick. Every payload is `true`.

Names follow the classes of published bypasses (advisories are named in `why`). Nothing here is ever loaded; the scan reads
it, and the C unpickler does so with nothing to call.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from builders.pickles import Called, Instance, Name, Persistent, dump
from builders.zips import PlainMember, plain_zip

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"cposix\nsystem\n"
EXEC = b"\x80\x02" + SYSTEM + b"X\x04\x00\x00\x00true\x85R."
PLAIN = dump({"a": [1, 2.5, "x"]}, 2)


@dataclass(frozen=True)
class Sample:
    """One file: the mildest verdict that is right, and the name it goes by."""

    title: str
    data: bytes
    least: str = "dangerous"
    name: str = "sample.pkl"
    why: str = ""


def frame(length: int) -> bytes:
    return b"\x95" + struct.pack("<Q", length)


def call(module: str, name: str, *args: object, protocol: int = 2) -> bytes:
    return dump(Called(Name(module, name), args), protocol)


def opcode_forms() -> Iterator[Sample]:
    """Every way to make a call, and ways to hide that one was made."""
    yield Sample("GLOBAL and REDUCE", EXEC)
    yield Sample("GLOBAL and REDUCE, protocol 0", b"cposix\nsystem\n(S'true'\ntR.")
    yield Sample("STACK_GLOBAL in a frame", call("posix", "system", "true", protocol=4))
    yield Sample("INST", b"(S'true'\niposix\nsystem\n.")
    yield Sample("OBJ", b"(cposix\nsystem\nS'true'\no.")
    yield Sample("NEWOBJ", b"\x80\x02csubprocess\nPopen\nU\x04true\x85\x81.")
    yield Sample("NEWOBJ_EX", b"\x80\x04\x8c\nsubprocess\x8c\x05Popen\x93\x8c\x04true\x85}\x92.")
    yield Sample("a call thrown away", b"\x80\x02" + SYSTEM + b"U\x04true\x85R0}.", why="GHSA-mxhj: the AST loses it")
    yield Sample("a call thrown away with a mark", b"\x80\x02(" + SYSTEM + b"U\x04true\x85R1}.")
    yield Sample("a call inside a value", dump({"w": [Called(Name("posix", "system"), ("true",))]}, 2))
    yield Sample("a call in a dictionary key", dump({("a", 1): 1}, 2)[:-1] + b"0}" + SYSTEM + b"U\x04true\x85RK\x01s.")
    yield Sample(
        "names from the memo", b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c\x04true\x85R."
    )
    yield Sample("PUT after POP", b"\x80\x02U\x05posixU\x03foo0q\x000U\x06systemq\x010h\x00h\x01\x93U\x04true\x85R.")
    yield Sample(
        "an opcode between the names and STACK_GLOBAL", b"\x80\x04\x8c\x05posix\x8c\x06systemN0\x93\x8c\x04true\x85R."
    )
    yield Sample("names by DUP", b"\x80\x04\x8c\x03pip2\x93)R.")
    yield Sample("names by GET of text", b"S'posix'\np1\n0S'system'\np2\n0g1\ng2\n\x93(S'true'\ntR.")
    yield Sample(
        "a dunder key in a BUILD", b"\x80\x02cargparse\nNamespace\n)\x81}U\x0c__setstate__" + SYSTEM + b"sbU\x04trueb."
    )
    yield Sample(
        "a dunder key in the slots of a BUILD", dump(Instance(Name("argparse", "Namespace"), ({}, {"__class__": 1})), 2)
    )
    yield Sample("BUILD on a class", b"\x80\x02ccollections\nOrderedDict\nN}U\x05itemsK\x01s\x86b.")
    yield Sample("SETITEMS on os.environ", b"\x80\x02cos\nenviron\n(U\x01aU\x01bu.")
    yield Sample("APPENDS on sys.path", b"\x80\x04\x8c\x03sys\x8c\x04path\x93(\x8c\x04/tmpe.")
    yield Sample("EXT1", b"\x80\x02\x82\x01.", "suspicious")
    yield Sample("EXT2 called", b"\x80\x02\x83\x01\x01)R.", "suspicious")
    yield Sample("EXT4", b"\x80\x02\x84\x01\x00\x00\x00.", "suspicious")
    yield Sample("PERSID", b"Pevil\n.", "suspicious")
    yield Sample("BINPERSID of something else", dump(Persistent(("evil", 1)), 2), "suspicious")
    yield Sample(
        "BINPERSID of source text",
        dump(Persistent(("module", Name("torch.nn.modules.linear", "Linear"), "a.py", "x")), 2),
        "suspicious",
    )
    yield Sample("an out-of-band buffer", b"\x80\x05\x97.", "suspicious")
    yield Sample("a second PROTO", b"\x80\x04\x80\x02c__builtin__\neval\n.")
    yield Sample("a computed callee", dump(Called(Called(Name("collections", "OrderedDict"), ()), ("true",)), 2))


def broken() -> Iterator[Sample]:
    """The payload first, what breaks the parser after it (nullifAI)."""
    head = EXEC[:-1]
    yield Sample("no STOP", head)
    yield Sample("garbage behind the payload", head + b"\xff\xfe\xfd")
    yield Sample("stack underflow behind the payload", head + b"000.")
    yield Sample("a name and then the end", b"\x80\x02" + SYSTEM)
    yield Sample("a broken text behind the payload", head + b"X\x02\x00\x00\x00\xff\xff.")
    yield Sample("a missing memo entry behind the payload", head + b"h\x63.")
    yield Sample("a cut constant behind the payload", head + b"\x8e" + b"\xff" * 8)
    yield Sample("a second pickle", PLAIN + EXEC)
    yield Sample("a third pickle", PLAIN + PLAIN + EXEC)
    yield Sample("junk behind the pickle", PLAIN + b"junk and more junk", "suspicious")
    yield Sample("a pickle behind junk behind a pickle", PLAIN + b"\x00" + EXEC, "suspicious")


def differences() -> Iterator[Sample]:
    """Streams that two unpicklers read differently."""
    tail = b"0" + SYSTEM + b"(S'true'\ntR."
    yield Sample("a hexadecimal INT", b"I0x41\n" + tail, why="cpython gh-126992")
    yield Sample("a hexadecimal LONG", b"L0x41L\n" + tail, why="cpython gh-126992")
    yield Sample("an octal INT", b"I010\n" + tail)
    yield Sample("a NUL in an INT", b"I1\x00junk\n" + tail)
    yield Sample("a NUL in a FLOAT", b"F1.5\x00junk\n" + tail)
    yield Sample("a NUL in a memo index", b"K\x01p1\x00x\n" + tail)
    yield Sample("a hexadecimal INT and nothing else", b"I0x41\n.", why="the difference alone is dangerous")
    yield Sample("a STRING beyond ASCII", b"S'\xe9'\n" + tail)
    yield Sample("a STRING beyond ASCII and nothing else", b"(S'\xe9'\nt.", "suspicious")
    yield Sample("a name beyond ASCII", "cposix\nsystém\n.".encode())
    yield Sample("a frame inside GLOBAL", b"\x80\x04" + frame(2) + b"cx" + b"posix\nsystem\n\x8c\x04true\x85R.")
    yield Sample("a frame shorter than its opcodes", b"\x80\x04" + frame(6) + SYSTEM + b"\x8c\x04true\x85R.")
    hidden = SYSTEM + b"\x8c\x04true\x85R."
    hide = b"X" + struct.pack("<I", 4 + len(hidden)) + b"AAAA"
    text = b"X\x08\x00\x00\x00" + b"BBBBBBBB0"
    yield Sample(
        "a payload in one text constant",
        b"\x80\x04" + frame(len(hide)) + hide + hidden + text + b".",
        why="cpython gh-154848",
    )
    yield Sample("frames in frames", b"\x80\x04" + frame(20) + frame(11) + b"K\x010" * 3 + b"K\x010N.")
    yield Sample("a frame behind STOP", b"\x80\x04" + frame(40) + b"N." + EXEC + b"x" * 20)
    yield Sample("empty frames", b"\x80\x04" + frame(0) * 3 + b"N.", "suspicious")


GADGETS = """
builtins.eval builtins.exec builtins.compile builtins.__import__ builtins.getattr builtins.globals builtins.open
builtins.input builtins.breakpoint builtins.vars builtins.setattr builtins.delattr builtins.map builtins.filter
builtins.type posix.system posix.popen nt.system os.system os.popen os.execl os.spawnl os.putenv os.remove
os.startfile subprocess.Popen subprocess.run subprocess.check_output commands.getoutput popen2.popen2 pty.spawn
_posixsubprocess.fork_exec sys.exit sys.settrace pip.main pip._internal.main ensurepip._run_pip
setuptools.sandbox.run_setup distutils.file_util.write_file asyncio.create_subprocess_shell
asyncio.unix_events._UnixSubprocessTransport cProfile.run profile.run idlelib.run.Executive
idlelib.pyshell.ModifiedInterpreter trace.Trace lib2to3.pgen2.pgen.ParserGenerator lib2to3.pgen2.grammar.Grammar
uuid._get_command_stdout imaplib.IMAP4_stream _osx_support._read_output _osx_support._find_build_tool
_aix_support._read_cmd_output _pyrepl.pager.pipe_pager test.support.script_helper.spawn_python pkgutil.resolve_name
operator.attrgetter operator.itemgetter operator.methodcaller _operator.attrgetter _operator.methodcaller
functools.reduce _functools.reduce pickle.loads pickle.load _pickle.loads dill.loads dill._dill._create_function
cloudpickle.loads cloudpickle.cloudpickle._make_function joblib.load marshal.loads types.FunctionType types.CodeType
importlib.import_module importlib.__import__ _frozen_importlib.__import__ importlib.util.spec_from_file_location
imp.load_source runpy.run_path runpy._run_code code.interact code.InteractiveInterpreter codeop.compile_command
bdb.Bdb pdb.run pdb.Pdb doctest.debug_script timeit.timeit timeit.main site.addsitedir site.execsitecustomize
zipimport.zipimporter ctypes.CDLL _ctypes.dlopen ctypes.cdll _ctypes.CFuncPtr fileinput.FileInput linecache.getlines
tempfile.mktemp shutil.rmtree shutil.copyfile pathlib.Path.write_text logging.config.dictConfig logging.FileHandler
logging.config.listen socket.create_connection _socket.socket ssl.get_server_certificate urllib.request.urlopen
http.client.HTTPConnection ftplib.FTP smtplib.SMTP telnetlib.Telnet webbrowser.open xmlrpc.client.ServerProxy
sqlite3.connect multiprocessing.util.spawnv_passfds multiprocessing.Process threading.Thread _thread.start_new_thread
signal.signal atexit.register weakref.finalize gc.get_objects inspect.getattr_static unittest.main
unittest.mock._importer turtledemo.docstring venv.main pydoc.pipepager pydoc.locate mailcap.findmatch mimetypes.init
netrc.netrc nntplib.NNTP poplib.POP3 numpy.testing._private.utils.runstring numpy.load
numpy.f2py.crackfortran.getlincoef numpy.f2py.diagnose.run numpy.distutils.exec_command.exec_command
numpy.lib.npyio.load numpy.vectorize torch.load torch.hub.load torch.jit.load torch.serialization.load
torch.jit.unsupported_tensor_ops.execWrapper torch.utils._config_module.load_config
torch._inductor.codecache.compile_file torch.utils.bottleneck.__main__.run_cprofile torch.utils.collect_env.run
torch.utils.data.datapipes.utils.decoder.basichandlers torch.fx.experimental.symbolic_shapes.ShapeEnv
torch.fx.graph_module.reduce_graph_module torch.package.PackageImporter torch.distributed.rpc.rpc_sync
torch.utils.cpp_extension.load_inline torch._dynamo.guards.GuardBuilder.get torch.ops.load_library
torch.classes.load_library torch.cuda._memory_viz.main torch.multiprocessing.spawn torch._lobpcg.x
transformers.dynamic_module_utils.get_class_from_dynamic_module pandas.read_pickle pandas.eval
pandas.io.pickle.read_pickle pandas.core.computation.eval.eval nltk.data.load yaml.unsafe_load jinja2.Template
IPython.start_ipython sympy.sympify huggingface_hub.snapshot_download requests.get psutil.Popen numexpr.evaluate
collections._sys.modules __builtin__.file
"""


def gadgets() -> Iterator[Sample]:
    """Names that run code, found under every stone; a list of them never ends, which is why only others are allowed."""
    for dotted in GADGETS.split():
        module, _, name = dotted.rpartition(".")
        yield Sample(f"{dotted} called", call(module, name, "true"))
        if dotted != "builtins.getattr":
            yield Sample(f"{dotted} named", b"\x80\x02c" + f"{module}\n{name}\n.".encode())
    for module, name in (
        ("torch", "serialization.os.system"),
        ("torch._utils", "os.system"),
        ("collections", "abc.sys.modules"),
        ("numpy", "os.system"),
        ("torch.nn.modules.linear", "torch.hub.load"),
    ):
        yield Sample(
            f"{module} and the dotted {name}",
            call(module, name, "true", protocol=4),
            why="getattr walks through an allowed module",
        )
    yield Sample("a name nobody knows", call("somepkg.loader", "run", "true"), "unknown")
    yield Sample("a class nobody knows", dump(Instance(Name("somepkg.loader", "Thing"), {"a": 1}), 2), "unknown")
    yield Sample("a class of the script", dump(Instance(Name("__main__", "Args"), {"a": 1}), 2), "unknown")
    yield Sample("a private module nobody knows", call("_somepkg", "run", "true"))
    yield Sample("an empty name", call("", "", "true"))
    yield Sample("a name with spaces", call("os ", " system", "true"))
    yield Sample("Python 2: __builtin__.eval", call("__builtin__", "eval", "1"))
    yield Sample("Python 2: commands.getoutput", call("commands", "getoutput", "true"))
    yield Sample("Python 2: urllib.urlopen", call("urllib", "urlopen", "http://127.0.0.1"))


def misused() -> Iterator[Sample]:
    """Allowed names with arguments no library gives them."""
    system = Name("posix", "system")
    yield Sample(
        "_rebuild_from_type_v2 calls its argument",
        dump(
            Called(Name("torch._tensor", "_rebuild_from_type_v2"), (system, Name("torch", "Tensor"), ("true",), None)),
            2,
        ),
    )
    yield Sample(
        "_rebuild_from_type_v2 calls an unknown name",
        dump(
            Called(
                Name("torch._tensor", "_rebuild_from_type_v2"),
                (Name("somepkg", "f"), Name("torch", "Tensor"), ("true",), None),
            ),
            2,
        ),
        "unknown",
    )
    yield Sample(
        "_rebuild_from_type_v2 sets a special method",
        dump(
            Called(
                Name("torch._tensor", "_rebuild_from_type_v2"),
                (
                    Name("torch._utils", "_rebuild_tensor_v2"),
                    Name("torch", "Tensor"),
                    (1, 2, 3, 4),
                    {"__setstate__": 1},
                ),
            ),
            2,
        ),
        "suspicious",
    )
    yield Sample("a codec that is no latin-1", call("_codecs", "encode", "true", "rot13"))
    yield Sample("_codecs.decode", call("_codecs", "decode", b"x", "zlib"), "suspicious")
    yield Sample("a bytearray of 2 GiB", call("builtins", "bytearray", 2**31), "suspicious")
    yield Sample("bytes of 2 GiB", call("builtins", "bytes", 2**31), "suspicious")
    yield Sample(
        "a list of a range",
        dump(Called(Name("builtins", "list"), (Called(Name("builtins", "range"), (10**12,)),)), 2),
        "suspicious",
    )
    yield Sample("a tensor of a terabyte", call("torch", "Tensor", 10**12), "suspicious")
    yield Sample(
        "a tensor of a terabyte by NEWOBJ", dump(Instance(Name("torch", "Tensor"), None, (10**12,)), 2), "suspicious"
    )
    yield Sample("a storage called", call("torch", "FloatStorage", 10**12), "suspicious")
    yield Sample(
        "an array of a terabyte",
        dump(Called(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (10**12,), b"b")), 4),
        "suspicious",
    )
    yield Sample(
        "numpy makes another class",
        dump(Called(Name("numpy.core.multiarray", "_reconstruct"), (Name("subprocess", "Popen"), (0,), b"b")), 4),
    )
    yield Sample("a default factory that runs code", dump(Called(Name("collections", "defaultdict"), (system,)), 2))
    yield Sample(
        "a default factory nobody knows",
        dump(Called(Name("collections", "defaultdict"), (Name("somepkg", "f"),)), 2),
        "unknown",
    )
    yield Sample("a partial that runs code", dump(Called(Name("functools", "partial"), (system, "true")), 2))
    yield Sample(
        "copyreg makes any class",
        dump(
            Called(Name("copyreg", "_reconstructor"), (Name("subprocess", "Popen"), Name("builtins", "object"), None)),
            2,
        ),
    )
    yield Sample(
        "copyreg calls any class",
        dump(
            Called(
                Name("copyreg", "_reconstructor"), (Name("argparse", "Namespace"), Name("subprocess", "Popen"), "true")
            ),
            2,
        ),
    )
    yield Sample("getattr of a module", dump(Called(Name("builtins", "getattr"), (Name("posix", "x"), "system")), 2))
    yield Sample(
        "getattr of an object",
        dump(Called(Name("builtins", "getattr"), (Called(Name("collections", "OrderedDict"), ()), "__class__")), 2),
    )
    yield Sample(
        "getattr of a private member",
        dump(
            Called(Name("builtins", "getattr"), (Name("transformers.trainer_utils", "IntervalStrategy"), "__class__")),
            2,
        ),
    )
    yield Sample(
        "a constructor of a known class",
        call("transformers.training_args", "TrainingArguments", "/tmp/x"),
        "suspicious",
    )
    yield Sample("an activation called", call("torch.nn.functional", "relu", 1), "suspicious")
    yield Sample("a nested pickle", call("torch.storage", "_load_from_bytes", EXEC, protocol=4))
    yield Sample(
        "a nested pickle, protocol 2",
        dump(
            Called(
                Name("torch.storage", "_load_from_bytes"),
                (Called(Name("_codecs", "encode"), (EXEC.decode("latin-1"), "latin1")),),
            ),
            2,
        ),
    )
    yield Sample("a pickle in a constant", dump({"blob": EXEC}, 4))
    yield Sample("a zipped pickle in a constant", dump({"blob": plain_zip([PlainMember(b"a/data.pkl", EXEC)])}, 4))
    yield Sample("a compressed pickle in a constant", dump({"blob": gzip.compress(EXEC)}, 4))
    yield Sample("a pickle in a long constant", dump({"blob": EXEC + bytes(100_000)}, 4))
    yield Sample("an item of a name", dump(Called(Name("operator", "getitem"), (Name("os", "environ"), "HOME")), 2))
    yield Sample("an item of a value", dump(Called(Name("operator", "getitem"), ([system], 0)), 2))
    yield Sample(
        "a special method below __dict__",
        dump(Instance(Name("argparse", "Namespace"), {"__dict__": {"__setstate__": 1}}), 2),
    )
    for title, flags, kind, fields in (
        ("objects that are said to be bytes", 0, "O8", None),
        ("a field of objects that is said to be bytes", 0, "V8", {"a": (_dtype("O8", 63), 0)}),
    ):
        yield Sample(
            title,
            dump(
                Called(
                    Name("numpy._core.multiarray", "_reconstruct"),
                    (Name("numpy", "ndarray"), (0,), b"b"),
                    state=(1, (1,), _dtype(kind, flags, fields), False, b"A" * 8),
                ),
                4,
            ),
            why="numpy takes the flags from the pickle and the bytes for pointers",
        )
    yield Sample("an enormous exponent", call("fractions", "Fraction", "1e99999999"), "suspicious")


def _dtype(kind: str, flags: int, fields: dict[str, object] | None = None) -> Called:
    names = tuple(fields) if fields else None
    return Called(Name("numpy", "dtype"), (kind, False, True), state=(3, "|", None, names, fields, 8, 1, flags))


def polyglots() -> Iterator[Sample]:
    """One file that two programs read as two things."""
    yield Sample("a safetensors file that is a pickle", safetensors_and_pickle(), name="pytorch_model.bin")
    yield Sample("GGUF, the argument of BINFLOAT", b"GGUF" + bytes(5) + b"0" + EXEC[2:], name="model.bin")
    yield Sample("a tar whose first name is a pickle", _tar({"cposix\nsystem\n(S'true'\ntR.": b"abc"}), name="model.pt")
    yield Sample(
        "bytes of a member that the directory calls shorter",
        plain_zip([PlainMember(b"a/data.pkl", PLAIN + EXEC, central={"size": len(PLAIN), "compressed": len(PLAIN)})]),
        name="model.pt",
    )
    yield Sample(
        "a call, and behind it a name that is none",
        plain_zip([PlainMember(b"a/data/0", EXEC[:-1] + b"0c! !\n! !\n.")]),
        name="model.pt",
        why="what is not sure to be a pickle was judged only if every name could be one",
    )
    yield Sample("a numpy array of 'object'", _npy(EXEC, descr="'object'"), name="rng.npy")
    yield Sample(
        "a Keras Lambda behind nine megabytes",
        b"\x89HDF\r\n\x1a\n" + bytes(9 << 20) + b'{"class_name": "Lambda", "config": {}}',
        "suspicious",
        name="model.h5",
    )


def safetensors_and_pickle() -> bytes:
    """A legal safetensors file whose length field is SHORT_BINSTRING: strings lead over the header into the data."""
    payload = EXEC[2:]
    run = 0x60
    tail = b'"},"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
    tail %= (len(payload), len(payload))
    head = b'{"__metadata__":{"a":"'
    first = run - 6  # of the first string, behind the rest of the length field
    strings = 82
    filling = b"".join(b"U" + bytes([run]) + b"B" * run for _ in range(strings))
    size = run << 8 | ord("U")
    left = size - first - len(filling)
    while left > 2 * run:
        filling += b"U" + bytes([run]) + b"B" * run
        left = size - first - len(filling)
    while left < len(tail) + 2 + run:
        filling = filling[: -run - 2]
        left = size - first - len(filling)
    middle = left - len(tail) - 4
    parts = [b"U" + bytes([middle]) + b"C" * middle, b"U" + bytes([len(tail)]) + tail]
    header = head + b"A" * (first - len(head)) + filling + b"".join(parts)
    return struct.pack("<Q", len(header)) + header + payload


def containers() -> Iterator[Sample]:
    """The payload inside something else, under a name that says otherwise."""
    torch = [PlainMember(b"archive/data.pkl", PLAIN), PlainMember(b"archive/version", b"3\n")]
    evil = [PlainMember(b"archive/data.pkl", EXEC), PlainMember(b"archive/version", b"3\n")]
    yield Sample("a torch zip", plain_zip(evil), name="model.pt")
    yield Sample("a deflated data.pkl", plain_zip([PlainMember(b"archive/data.pkl", EXEC, method=8)]), name="model.pt")
    yield Sample(
        "a wrong CRC",
        plain_zip([PlainMember(b"archive/data.pkl", EXEC, central={"crc": 1}, local={"crc": 1})]),
        name="model.pt",
        why="CVE-2025-10156",
    )
    yield Sample(
        "flags of encryption",
        plain_zip([PlainMember(b"archive/data.pkl", EXEC, flags=0x61)]),
        name="model.pt",
        why="CVE-2025-1945",
    )
    yield Sample(
        "an encrypted member",
        plain_zip([PlainMember(b"archive/data.pkl", bytes(range(60)), flags=1)]),
        "suspicious",
        name="model.pt",
    )
    yield Sample(
        "local and central names differ",
        plain_zip([PlainMember(b"archive/data.pkl", EXEC, local={"name": b"archive/data.txt"})]),
        name="model.pt",
        why="CVE-2025-1944",
    )
    yield Sample(
        "local and central methods differ",
        plain_zip([PlainMember(b"archive/data.pkl", EXEC, local={"method": 8})]),
        name="model.pt",
    )
    yield Sample(
        "sizes that lie",
        plain_zip([PlainMember(b"archive/data.pkl", EXEC, method=8, central={"size": 4})]),
        name="model.pt",
    )
    yield Sample(
        "an odd extension inside",
        plain_zip([*torch, PlainMember(b"archive/config.p", EXEC)]),
        name="model.pt",
        why="CVE-2025-1889",
    )
    yield Sample(
        "a pickle among the storages", plain_zip([*torch, PlainMember(b"archive/data/0", EXEC)]), name="model.pt"
    )
    yield Sample(
        "a pickle called version", plain_zip([torch[0], PlainMember(b"archive/version", EXEC)]), name="model.pt"
    )
    yield Sample("the first of two data.pkl", plain_zip([evil[0], torch[0]]), name="model.pt")
    yield Sample("the last of two data.pkl", plain_zip([torch[0], evil[0]]), name="model.pt")
    yield Sample("two roots", plain_zip([torch[0], PlainMember(b"other/data.pkl", EXEC)]), name="model.pt")
    yield Sample("bytes before the archive", plain_zip(evil, prefix=b"#!/bin/sh\nexit\n"), name="model.pt")
    yield Sample("a pickle before the archive", plain_zip(torch, prefix=EXEC), name="model.pt")
    yield Sample("a pickle behind the archive", plain_zip(torch) + EXEC, name="model.pt")
    yield Sample("a pickle in the comment", plain_zip(torch, comment=EXEC), name="model.pt")
    yield Sample("a pickle that ends as a zip", EXEC[:-1] + b"0." + plain_zip(torch), name="model.pt")
    yield Sample("a plain pickle that ends as an evil zip", PLAIN + plain_zip(evil), name="model.pt")
    yield Sample("a member the directory does not list", _unlisted(), name="model.pt")
    yield Sample(
        "a zip in a zip", plain_zip([*torch, PlainMember(b"archive/extra/inner.zip", plain_zip(evil))]), name="model.pt"
    )
    yield Sample("zips in zips in zips", _nested(6), "suspicious", name="model.zip")
    yield Sample(
        "a zip bomb",
        plain_zip([PlainMember(b"archive/data.pkl", bytes(100 << 20), method=8)]),
        "suspicious",
        name="model.pt",
    )
    yield Sample(
        "a legacy stream, magic",
        b"\x80\x02" + SYSTEM + b"U\x04true\x85R0" + MAGIC[2:] + PROTOCOL + PLAIN + PLAIN + b"\x80\x02].",
        name="model.bin",
    )
    yield Sample(
        "a legacy stream, system information", MAGIC + PROTOCOL + EXEC + PLAIN + b"\x80\x02].", name="model.bin"
    )
    yield Sample("a legacy stream, object", MAGIC + PROTOCOL + PLAIN + EXEC + b"\x80\x02].", name="model.bin")
    yield Sample("a legacy stream, keys", MAGIC + PROTOCOL + PLAIN + PLAIN + EXEC, name="model.bin")
    yield Sample(
        "a legacy stream, behind its end", MAGIC + PROTOCOL + PLAIN + PLAIN + b"\x80\x02]." + EXEC, name="model.bin"
    )
    yield Sample("a magic number that is computed", call("builtins", "eval", "1"), name="model.bin", why="GHSA-97f8")
    yield Sample(
        "a tar of torch 0.1",
        _tar({"storages": PLAIN, "tensors": PLAIN, "pickle": EXEC}),
        name="model.pt",
        why="CVE-2025-32434",
    )
    yield Sample("a tar inside gzip", gzip.compress(_tar({"a.pkl": EXEC})), name="model.tar.gz")
    yield Sample("gzip", gzip.compress(EXEC), name="model.pkl")
    yield Sample("two gzip streams", gzip.compress(b"") + gzip.compress(EXEC), name="model.pkl.gz")
    yield Sample("bzip2", bz2.compress(EXEC), name="model.pkl")
    yield Sample("xz", lzma.compress(EXEC), name="model.joblib")
    yield Sample("zlib", zlib.compress(EXEC), name="model.joblib")
    yield Sample("LZMA alone", lzma.compress(EXEC, format=lzma.FORMAT_ALONE), name="model.joblib")
    yield Sample("zlib behind joblib's old header", b"ZF0x1c               " + zlib.compress(EXEC), name="model.joblib")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield Sample(f"zip method {method}", _zipfile("archive/data.pkl", EXEC, method), name="model.pt")
    yield Sample("gzip in gzip", gzip.compress(gzip.compress(EXEC)), name="model.pkl")
    yield Sample("a gzip bomb", gzip.compress(bytes(200 << 20)), "suspicious", name="model.pkl")
    yield Sample("a gzip cut short", gzip.compress(bytes(range(256)) * 400)[:300], "unknown", name="model.pkl")
    yield Sample("7z", b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(64), name="model.bin", why="nullifAI")
    yield Sample("rar", b"Rar!\x1a\x07\x01\x00" + bytes(64), name="model.bin")
    yield Sample("zstd", b"\x28\xb5\x2f\xfd" + bytes(64), "suspicious", name="model.pkl")
    yield Sample("lz4", b"\x04\x22\x4d\x18" + bytes(64), "suspicious", name="model.joblib")
    yield Sample("a numpy array of objects", _npy(EXEC), name="rng.npy")
    yield Sample("a numpy archive with objects", plain_zip([PlainMember(b"arr_0.npy", _npy(EXEC))]), name="data.npz")
    yield Sample(
        "a numpy archive, deflated", plain_zip([PlainMember(b"arr_0.npy", _npy(EXEC), method=8)]), name="data.npz"
    )
    for name in (
        "trainer_state.json",
        "model.safetensors",
        "README.md",
        "tokenizer.model",
        "latest",
        "training_loss.png",
        "chat_template.jinja",
    ):
        yield Sample(f"a pickle called {name}", EXEC, name=name, why="CVE-2025-10155")
        yield Sample(f"an old pickle called {name}", b"cposix\nsystem\n(S'true'\ntR.\njunk", name=name)
    yield Sample("a distributed checkpoint's index", EXEC, name=".metadata")
    yield Sample("a program", b"\x7fELF\x02\x01\x01" + bytes(60), "suspicious", name="pytorch_model.bin")
    yield Sample(
        "nothing known under a name that is unpickled", b"\xde\xad\xbe\xef" * 20, "unknown", name="optimizer.pt"
    )


def bombs() -> Iterator[Sample]:
    """Streams that cost a loader its memory or time."""
    yield Sample("a memo bomb", b"K\x01" + b"2\x86" * 80 + b".", "suspicious")
    yield Sample("a bomb as a key", b"}K\x01" + b"2\x86" * 80 + b"K\x01s.", "suspicious")
    yield Sample("200,000 nested lists", b"]" * 200_000 + b"a" * 199_999 + b".", "suspicious")
    yield Sample("200,000 nested tuples", b")" + b"\x85" * 200_000 + b".", "suspicious")
    yield Sample("200,000 marks", b"(" * 200_000 + b".", "suspicious")
    yield Sample("a memo index of 2^31", b"Nr\xff\xff\xff\x7f.", "suspicious")
    yield Sample("a memo index of 10^30", b"Np" + b"9" * 30 + b"\n.", "suspicious")
    yield Sample("a LONG4 of 2 GiB", b"\x80\x02\x8b\xff\xff\xff\x7fabc", "unknown")
    yield Sample("a BYTEARRAY8 of a terabyte", b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc", "unknown")
    yield Sample("a BINUNICODE8 of 2^63", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"abc", "unknown")
    yield Sample("a LONG of 100,000 digits", b"L" + b"9" * 100_000 + b"L\n.", "suspicious")
    yield Sample("a list as a key", b"}]K\x01s.", "unknown")
    yield Sample("protocol 255", b"\x80\xffN.", "unknown")


def benign() -> Iterator[Sample]:
    """What libraries write: clean or known."""
    tensor = Called(
        Name("torch._utils", "_rebuild_tensor_v2"),
        (
            Persistent(("storage", Name("torch", "FloatStorage"), "0", "cpu", 4)),
            0,
            (2, 2),
            (2, 1),
            False,
            Called(Name("collections", "OrderedDict")),
        ),
    )
    weights = plain_zip(
        [
            PlainMember(b"archive/data.pkl", dump({"w": tensor}, 2)),
            PlainMember(b"archive/byteorder", b"little"),
            PlainMember(b"archive/data/0", bytes(16)),
            PlainMember(b"archive/version", b"3\n"),
        ]
    )
    yield Sample("a state dict", weights, "clean", "model.pt")
    for protocol in range(6):
        yield Sample(
            f"plain containers, protocol {protocol}",
            dump({"a": [1, 2.5, "é", None, True, (1,), b"x"], 3: {"b": []}}, protocol),
            "clean",
        )
    yield Sample(
        "a numpy array",
        dump(
            Called(
                Name("numpy.core.multiarray", "_reconstruct"),
                (Name("numpy", "ndarray"), (0,), b"b"),
                state=(1, (2,), Called(Name("numpy", "dtype"), ("u4", False, True)), False, b"12345678"),
            ),
            4,
        ),
        "clean",
    )
    yield Sample(
        "training arguments",
        dump(
            Instance(
                Name("transformers.training_args", "TrainingArguments"),
                {
                    "save_strategy": Called(Name("transformers.trainer_utils", "SaveStrategy"), ("steps",)),
                    "output_dir": "out",
                    "device": Called(Name("torch", "device"), ("cpu",)),
                    "__cached__setup_devices": Called(Name("torch", "device"), ("cpu",)),
                },
            ),
            2,
        ),
        "known",
        "training_args.bin",
    )
    yield Sample(
        "a loss scaler",
        dump({"s": Instance(Name("deepspeed.runtime.fp16.loss_scaler", "LossScaler"), {"cur_scale": 1.0})}, 2),
        "known",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
    )
    yield Sample("a list in itself", b"]q\x00h\x00a.", "known")
    yield Sample("a namespace", dump(Instance(Name("argparse", "Namespace"), {"lr": 0.1}), 2), "known")
    yield Sample(
        "paths, dates and partials",
        dump(
            [
                Called(Name("pathlib", "PosixPath"), ("/", "a")),
                Called(Name("datetime", "timedelta"), (1, 2, 3)),
                Called(
                    Name("functools", "partial"),
                    (Name("transformers.optimization", "_get_linear_schedule_with_warmup_lr_lambda"),),
                ),
            ],
            2,
        ),
        "known",
    )
    yield Sample(
        "a member of an enumeration by name",
        dump(Called(Name("builtins", "getattr"), (Name("transformers.trainer_utils", "SaveStrategy"), "STEPS")), 4),
        "known",
    )
    yield Sample(
        "a default dictionary",
        dump(Called(Name("collections", "defaultdict"), (Name("builtins", "list"),), pairs=[("a", 1)]), 2),
        "clean",
    )
    yield Sample(
        "bytes and sets of protocol 2",
        dump(
            {
                "b": Called(Name("_codecs", "encode"), ("\xe9", "latin1")),
                "s": Called(Name("__builtin__", "set"), ([1, 2],)),
            },
            2,
        ),
        "clean",
    )
    yield Sample("a numpy file", _npy(b"", descr="'<f8'"), "clean", "x.npy")
    yield Sample("JSON", b'{"a": [1, 2, {"b": NaN}]}', "clean", "trainer_state.json")
    yield Sample("a list of words", b"cat\ndog\nclass\nimport\n" * 50, "clean", "vocab.txt")
    yield Sample("merges", b"#version: 0.2\ni n\nt h\nc o\n", "clean", "merges.txt")
    yield Sample("text", b"The model was trained for 3 epochs.\n", "clean", "README.md")
    yield Sample("a tag", b"global_step8", "clean", "latest")


def _npy(body: bytes, descr: str = "'|O'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def _zipfile(name: str, data: bytes, method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _nested(depth: int) -> bytes:
    data = EXEC
    for level in range(depth):
        data = plain_zip([PlainMember(b"a.pkl" if level == 0 else b"a.zip", data)])
    return data


def _unlisted() -> bytes:
    """An archive with a member before the others that only its local header names."""
    whole = plain_zip([PlainMember(b"archive/evil.pkl", EXEC)])
    local = whole[: whole.index(b"PK\x01\x02")]
    return plain_zip([PlainMember(b"archive/data.pkl", PLAIN), PlainMember(b"archive/version", b"3\n")], prefix=local)


def hostile() -> list[Sample]:
    """Every sample that must not pass."""
    return [*opcode_forms(), *broken(), *differences(), *gadgets(), *misused(), *polyglots(), *containers(), *bombs()]
