"""Interprets the pickle inside a PyTorch checkpoint as plain data.

Python's own unpickler imports and calls whatever a pickle names. Here the opcodes are carried out on
lists, tuples, dicts, numbers and strings only; a named function or class is a label that is compared with
the lists below and never imported, so a file cannot run anything.
"""

import dataclasses
import pickletools
from typing import Any

import ml_dtypes
import numpy as np

from qsdt_jax.errors import UserError

_DTYPES = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
_BUILT = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "collections.OrderedDict",
)
# What training scripts store beside the weights; `_IGNORED` takes its place.
_LEFT_OUT = (
    "__builtin__.dict",
    "__builtin__.list",
    "__builtin__.set",
    "argparse.Namespace",
    "builtins.dict",
    "builtins.list",
    "builtins.set",
    "collections.Counter",
    "collections.defaultdict",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "_codecs.encode",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "torch.bfloat16",
    "torch.device",
    "torch.float16",
    "torch.float32",
    "torch.float64",
    "torch.int64",
    "torch.strided",
)
_READABLE = frozenset((*_DTYPES, *_BUILT, *_LEFT_OUT))


@dataclasses.dataclass(frozen=True)
class Storage:
    """Raw elements in the archive entry `data/<key>`; `size` counts elements and is not checked."""

    dtype: np.dtype
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as the pickle describes it, nothing of it checked; offset and strides in elements."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


def read_pickle(data: bytes) -> Any:
    """The content of a pickle: containers, numbers, strings, `Tensor`, and a dummy for what is left out.

    Raises:
      UserError: the pickle names code outside the lists above.
      ValueError: the pickle is malformed.
    """
    try:
        return _run(data)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"malformed pickle: {error}") from None


class _Ignored:
    """Stands for every object of `_LEFT_OUT`."""


_IGNORED = _Ignored()


@dataclasses.dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names."""

    name: str


def _name(module: str, attribute: str) -> _Name:
    name = module + "." + attribute
    if name not in _READABLE:
        shown = name if name.isprintable() else ascii(name)
        raise UserError(
            f"names the code {shown[:80]}, which is not run; save the weights alone: "
            "torch.save({'model': model.state_dict()}, path)"
        )
    return _Name(name)


def _apply(function: Any, arguments: Any) -> Any:
    """What REDUCE and NEWOBJ build; the only place where a name gains a meaning."""
    match function, arguments:
        case _Name("torch._utils._rebuild_tensor_v2"), (storage, offset, shape, strides, *_):
            return Tensor(storage, offset, shape, strides)
        case _Name("torch._utils._rebuild_parameter"), (tensor, *_):
            return tensor
        case _Name("torch.Size"), (tuple() | list() as shape,):
            return tuple(shape)
        case _Name("collections.OrderedDict"), ():
            return {}
        case _Name("collections.OrderedDict"), (list() as pairs,):
            return {key: value for key, value in pairs if _is_key(key)}
        case _Name(name), tuple() if name in _LEFT_OUT:
            return _IGNORED
    raise ValueError(f"unexpected arguments of {getattr(function, 'name', 'an object')}")


def _storage(reference: Any) -> Storage:
    match reference:
        case ("storage", _Name(name), str() as key, _, int() as size) if name in _DTYPES:
            return Storage(_DTYPES[name], key, size)
    raise ValueError("unexpected reference to a storage")


def _is_key(key: Any) -> bool:
    # No weight has another key, and hashing the nested tuples of a hostile file can take for ever.
    return key is None or isinstance(key, (str, int, float, bytes))


def _put_items(target: Any, flat: list) -> None:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    if isinstance(target, dict):
        target.update((key, value) for key, value in pairs if _is_key(key))
    elif target is not _IGNORED:
        raise ValueError("items set on an object that has none")


def _append(target: Any, items: list) -> None:
    if not isinstance(target, list):
        raise ValueError("items appended to an object that is no list")
    target.extend(items)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # The stack under each mark.
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
                stack.append(argument)
            case "FLOAT" | "BINFLOAT" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _SHORT_TUPLES:
                count = _SHORT_TUPLES[name]
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, below.pop()
                stack.append(tuple(items))
            case "LIST" | "FROZENSET":
                items, stack = stack, below.pop()
                stack.append(items)
            case "DICT":
                items, stack = stack, below.pop()
                stack.append({})
                _put_items(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                _append(stack[-1], [item])
            case "APPENDS" | "ADDITEMS":
                items, stack = stack, below.pop()
                _append(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put_items(stack[-1], [key, value])
            case "SETITEMS":
                items, stack = stack, below.pop()
                _put_items(stack[-1], items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_name(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_apply(function, arguments))
            case "BUILD" | "POP":  # BUILD sets attributes; nothing of ours has any.
                stack.pop()
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"opcode {name} is not one of PyTorch's")
    raise ValueError("pickle without an end")
