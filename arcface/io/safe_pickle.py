"""Restricted unpickler: reads plain data and NumPy arrays, and refuses everything else by name before it runs.

Why not a `pickle.Unpickler` whose `find_class` has an allow-list: a list that admits NumPy admits attackers.
`numpy.dtype.__setstate__` does not check flags and field offsets, so a pickle can declare raw bytes to be an
object array, and NumPy then follows them as pointers. The C unpickler also allocates for any memo index (tens
of GiB for five bytes) and hashes nested tuples as dict keys, in exponential time. This interpreter runs the
instructions below and no others, and never allocates for a length that a file only claims.

The standard library's `pickletools` decodes the arguments of the instructions.
"""

import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from arcface.errors import UserError
from arcface.io.pickle_arrays import DTYPE_CODES, Refused, array_size, check_array, set_byte_order

# Keys that are hashed in time linear in their size, unlike nested tuples.
_KEY_TYPES = (str, bytes, int, float, bool, type(None))
_HIGHEST_PROTOCOL = 5
_ADVICE = "only plain data and NumPy arrays are loaded: get the file from a trusted source, or convert it"


class Library(NamedTuple):
    """What the pickles of a library contain besides plain data."""

    accepted: Mapping[tuple[str, str], Callable | None]
    """Its globals, by module and name: REDUCE calls these functions, with the interpreter first; None is never called."""
    persistent: Callable[[object], object]
    """What stands for an object outside the pickle, by its persistent id."""
    advice: str
    """What a refusal of anything else tells the user to do."""


def load(source: bytes | BinaryIO, name: str, library: Library | None = None) -> object:
    """Read one pickle of plain data.

    Accepts None, bool, int, float, str, bytes, list, tuple, dict and OrderedDict (whose keys are not
    containers), and NumPy arrays, scalars and dtypes of numbers, bool and fixed-length bytes; arrays may also
    contain objects of these types. Pickle protocols 0 to 5. That covers InsightFace's `.bin` files and tensors
    that `paddle.save` writes in dicts, lists and tuples. Outside a plain state dict, a tensor is returned as
    Paddle pickles it: (name, array). A `str` of Python 2 is returned as bytes.

    Args:
        source: the pickle, or a seekable binary stream positioned at its first byte.
        name: what messages call the file, usually its path.
        library: whose objects are accepted too. Attributes that a pickle gives an OrderedDict are then ignored, not refused.

    Raises:
        UserError: the pickle is truncated or damaged, or asks for anything else.
    """
    try:
        return _Interpreter(_Reader(io.BytesIO(source) if isinstance(source, bytes) else source), library).run()
    except Refused as refusal:
        advice = library.advice if library else _ADVICE
        raise UserError(f"{name}: refused, because it asks for {_printable(str(refusal))}; {advice}") from refusal
    except Exception as error:  # on garbage the decoders raise ten types, from EOFError to MemoryError
        detail = _printable(str(error) or type(error).__name__)
        raise UserError(f"{name}: truncated, damaged or not a pickle ({detail}); download it again") from error


class _Reader:
    """A stream that refuses reads beyond its size, so that a false length allocates no memory."""

    def __init__(self, stream: BinaryIO):
        start = stream.tell()
        self.size = stream.seek(0, io.SEEK_END) - start
        stream.seek(start)
        self.readline = stream.readline
        self._stream = stream

    def read(self, count: int) -> bytes:
        if count > self.size:
            raise EOFError("unexpected end of file")
        return self._stream.read(count)


class _Global(NamedTuple):
    """An accepted global: REDUCE calls `build` instead of it, or is refused if `build` is None."""

    name: str
    build: Callable | None


class _Interpreter:
    """The pickle machine: a stack that each MARK divides, and a memo."""

    def __init__(self, reader: _Reader, library: Library | None):
        self.reader = reader
        self.library = library
        self.accepted: Mapping[tuple[str, str], Callable | None] = {**_ACCEPTED, **(library.accepted if library else {})}
        self.stack: list = []
        self.below_marks: list[list] = []
        self.memo: dict[int, object] = {}
        self.unfilled: dict[int, np.ndarray] = {}  # arrays by id, from `_reconstruct` until their BUILD
        # Bytes that arrays and copies may still allocate; without a limit, a loop of GET and REDUCE could fill the
        # memory, here or where arrays that share memory are concatenated. A valid file needs at most twice its
        # size: protocol 2 encodes the bytes of an array, which may copy them again.
        self.allocatable = 4 * reader.size

    def run(self) -> object:
        while True:
            code = self.reader.read(1)
            if code not in _INSTRUCTIONS:
                raise ValueError(f"unknown instruction {code!r}")
            name, read_argument = _INSTRUCTIONS[code]
            argument = read_argument(self.reader) if read_argument else None
            if name == "STOP":
                return self.stack.pop()
            self.execute(name, argument)

    def execute(self, name: str, argument) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
            return
        match name:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument.encode("latin-1"))  # undoes pickletools' decoding; see _python2_string
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "MARK":
                self.below_marks.append(stack)
                self.stack = []
            case "TUPLE" | "LIST":
                items = self.pop_mark()
                self.stack.append(tuple(items) if name == "TUPLE" else items)
            case "DICT":
                items = self.pop_mark()
                self.stack.append({})
                self.set_items(items)
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self.pop_mark()
                if type(self.stack[-1]) is not list:
                    raise TypeError("an item for a value that is not a list")
                self.stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_mark())
            case "PROTO":
                if argument > _HIGHEST_PROTOCOL:
                    raise ValueError(f"pickle protocol {argument}")
            case "FRAME":
                if argument > self.reader.size:
                    raise EOFError("unexpected end of file")
            case "GLOBAL":
                self.push_global(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                self.push_global(module, attribute)
            case "REDUCE":
                arguments, target = stack.pop(), stack.pop()
                if type(target) is not _Global or type(arguments) is not tuple:
                    raise TypeError("a call of a value that is not a function")
                if target.build is None:
                    raise Refused(f"a call of {target.name}")
                stack.append(target.build(self, *arguments))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if id(target) in self.unfilled:
                    self.fill_array(target, state)
                elif isinstance(target, np.dtype):
                    set_byte_order(target, state)
                elif self.library and type(target) is OrderedDict and type(state) is dict:
                    pass  # attributes, such as the _metadata of PyTorch's state dicts
                else:
                    raise Refused("a change to the state of a value that is not an array")
            case "BINPERSID" if self.library:
                stack.append(self.library.persistent(stack.pop()))
            case "PERSID" | "BINPERSID":
                raise Refused("an object outside the file, by a persistent id")
            case "INST":
                raise Refused(argument.replace(" ", ".", 1))
            case _:  # OBJ, NEWOBJ, EXT1, sets, out-of-band buffers, POP, DUP and others, which no file of ours uses
                raise Refused(f"the pickle instruction {name}")

    def pop_mark(self) -> list:
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def set_items(self, items: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("a key for a value that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in _KEY_TYPES:
                raise Refused(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def push_global(self, module: str, attribute: str) -> None:
        """Push an accepted global, by a plain dict look-up that imports nothing and resolves no dotted names."""
        if type(module) is not str or type(attribute) is not str:
            raise TypeError("a global whose name is not text")
        if (module, attribute) not in self.accepted:
            raise Refused(f"{module}.{attribute}")
        self.stack.append(_Global(f"{module}.{attribute}", self.accepted[module, attribute]))

    def allocate(self, size: int) -> None:
        """Subtract an allocation from what is still allowed; raises MemoryError."""
        self.allocatable -= size
        if self.allocatable < 0:
            raise MemoryError("it would need far more memory than its size")

    # What REDUCE and BUILD call instead of the globals that a pickle names.

    def encode(self, text: str, encoding: str) -> bytes:
        """`_codecs.encode`: how Python 3 writes bytes in protocols 0 to 2."""
        if encoding not in ("latin1", "latin-1"):
            raise Refused("_codecs.encode with an encoding that is not latin1")
        self.allocate(len(text))
        return text.encode("latin-1")

    def no_bytes(self) -> bytes:
        """`bytes()`: how Python 3 writes b"" in protocols 0 to 2. It never writes arguments."""
        return b""

    def tuple_of(self, items: tuple) -> tuple:
        """`tuple(items)`: how Paddle writes a tensor's (name, array)."""
        if type(items) is not tuple:
            raise TypeError("a call of tuple with a value that is not a tuple")
        return items

    def ordered_dict(self, items: Sequence = ()) -> OrderedDict:
        """`collections.OrderedDict`; Python 2 passes a list of pairs."""
        self.allocate(len(items))
        self.stack.append(OrderedDict())
        self.set_items([part for key, value in items for part in (key, value)])
        return self.stack.pop()

    def dtype(self, code: str | bytes, *_) -> np.dtype:
        """`numpy.dtype`. Always a copy, because BUILD sets its byte order in place."""
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not DTYPE_CODES.fullmatch(text):
            raise Refused(f"a NumPy array of dtype {text}")
        return np.dtype(text, copy=True)

    def scalar(self, dtype: np.dtype, content: bytes) -> np.generic:
        """`scalar`: one NumPy number or bytes."""
        check_array(content, dtype, ())
        self.allocate(len(content))
        return np.frombuffer(content, dtype)[0]

    def from_buffer(
        self, content: bytes | bytearray, dtype: np.dtype, shape: tuple, order: Literal["C", "F", "K"], axes: tuple | None = None
    ) -> np.ndarray:
        """`_frombuffer`: contiguous arrays in protocol 5. Recent NumPy 2 also writes order "K" with axes."""
        check_array(content, dtype, shape)
        self.allocate(len(content))
        array = np.frombuffer(content, dtype)
        return array.reshape(shape).transpose(axes) if order == "K" else array.reshape(shape, order=order)

    def reconstruct(self, kind: _Global, shape: tuple, typecode: bytes) -> np.ndarray:
        """`_reconstruct`: an empty array that a BUILD will fill. NumPy always writes these arguments."""
        if kind != _Global("numpy.ndarray", None) or shape != (0,) or typecode != b"b":
            raise Refused("an unusual kind of NumPy array")
        array = np.zeros(0, np.int8)
        self.unfilled[id(array)] = array
        return array

    def fill_array(self, array: np.ndarray, state: tuple) -> None:
        """`numpy.ndarray.__setstate__`, once for each array, after checking the state."""
        shape, dtype, fortran_order, content = state[-4:]  # preceded by a version
        if isinstance(dtype, np.dtype) and dtype == np.dtype(object):
            if type(content) is not list or len(content) != array_size(shape):
                raise ValueError("the content of an array does not fit its shape")
            # NumPy frees nested object arrays recursively; deep nesting overflows the C stack.
            if any(type(item) is np.ndarray and (item.dtype == np.dtype(object) or id(item) in self.unfilled) for item in content):
                raise Refused("an object array in an object array")
        else:
            check_array(content, dtype, shape)
        self.allocate(len(content))
        unfilled: Any = array
        unfilled.__setstate__((1, shape, dtype, bool(fortran_order), content))
        del self.unfilled[id(array)]


def _python2_string(reader: _Reader) -> bytes:
    """Python 2's `str` in protocol 0: its repr, on one line.

    Returned as bytes, as are its binary forms, like `pickle.load(..., encoding="bytes")`, because older `.bin`
    files store JPEGs in it. "ASCII", the default, fails at the first JPEG; "latin1" would return text that
    cannot be distinguished from real text.
    """
    line = reader.readline().strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise ValueError("a string without quotes")
    return line[1:-1].decode("unicode_escape").encode("latin-1")


def _printable(text: str) -> str:
    """Return text from a file as one short line of ASCII, for a message."""
    text = ascii(text)[1:-1]
    return text if len(text) <= 100 else text[:97] + "..."


_INSTRUCTIONS: dict[bytes, tuple[str, Callable[[Any], Any] | None]] = {
    opcode.code.encode("latin-1"): (opcode.name, opcode.arg.reader if opcode.arg else None) for opcode in pickletools.opcodes
} | {b"S": ("STRING", _python2_string)}  # pickletools accepts only ASCII there

_LITERALS = frozenset(
    """
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 UNICODE STRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
""".split()
)

_ACCEPTED = {
    ("_codecs", "encode"): _Interpreter.encode,
    ("__builtin__", "bytes"): _Interpreter.no_bytes,
    ("builtins", "bytes"): _Interpreter.no_bytes,
    ("__builtin__", "tuple"): _Interpreter.tuple_of,
    ("builtins", "tuple"): _Interpreter.tuple_of,
    ("collections", "OrderedDict"): _Interpreter.ordered_dict,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Interpreter.dtype,
} | {
    (f"numpy.{core}.{module}", name): build
    for core in ("core", "_core")  # NumPy 1 and NumPy 2
    for module, name, build in (
        ("multiarray", "_reconstruct", _Interpreter.reconstruct),
        ("multiarray", "scalar", _Interpreter.scalar),
        ("numeric", "_frombuffer", _Interpreter.from_buffer),
    )
}
