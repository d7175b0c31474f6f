"""Pickles read as data: nothing that a pickle names is imported, and nothing that it calls is called.

A pickle is a program for a small stack machine. The machine here has the instructions that make
numbers, strings, lists and dictionaries. Where a pickle would import a class or a function, there is
only its name (`PickledName`); where it would call it, there is a `Record` of the name, the arguments
and the state that follows. The exceptions are the few names of a table that the caller gives, with
functions of this package that check what they get.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

Builder = Callable[..., Any]
"""A function of this package that makes the value for which a pickle names a class or a function."""

_PUSHED = [
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "FLOAT",
    "BINFLOAT",
]
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_KEYS = (str, bytes, int, float, bool, type(None))

_RUNS_CODE = frozenset(
    [
        "os",
        "posix",
        "nt",
        "sys",
        "subprocess",
        "multiprocessing",
        "runpy",
        "importlib",
        "imp",
        "shutil",
        "socket",
        "pty",
        "ctypes",
        "webbrowser",
        "code",
        "codeop",
        "commands",
        "signal",
        "asyncio",
        "pdb",
        "timeit",
    ]
)
_RUNS_CODE_BUILTINS = frozenset(
    ["eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__", "globals"]
)


class UnsafePickleError(Exception):
    """Raised for a pickle that calls what has no other use than to run something; the message is its name."""


@dataclass(frozen=True, slots=True)
class PickledName:
    """A class or a function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def runs_code(self) -> bool:
        """Whether calling it can only mean to run something."""
        top = self.module.partition(".")[0]
        first = self.name.partition(".")[0]
        return top in _RUNS_CODE or (top in ("builtins", "io", "_io") and first in _RUNS_CODE_BUILTINS)


class Record(dict[Any, Any]):
    """What a pickle says about an object whose class is not known here: its state, by name.

    Attributes:
        kind: the class, as "module.name".
        arguments: what the class was to be called with.
        elements: what was to be appended to it.
    """

    def __init__(self, kind: str, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.kind, self.arguments, self.elements = kind, arguments, []

    def set_state(self, state: Any) -> None:
        """Take the state of the object: a dictionary, a pair of two (the second of slots), or anything."""
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if not all(part is None or isinstance(part, dict) for part in parts):
            self["state"] = state
            return
        for part in parts:
            if isinstance(part, dict):
                inner = part.get("__dict__")  # as pydantic has it
                self.update(inner if isinstance(inner, dict) else part)


class Machine:
    """The interpreter of one pickle.

    Args:
        builders: by "module.name", the functions that make known values.
        storage: makes the value of a persistent reference.

    Attributes:
        kinds: the names of the classes and functions of which there are records.
    """

    def __init__(self, builders: Mapping[str, Builder], storage: Builder) -> None:
        self.builders, self.storage = builders, storage
        self.kinds: set[str] = set()
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._read: Callable[[], int] = lambda: 0
        self._given = 0

    def run(self, file: BinaryIO) -> Any:
        """The value of the pickle that begins where the file stands; afterwards the file stands behind it.

        Raises:
            UnsafePickleError: the pickle calls something that can only mean to run code.
            Exception: the pickle is damaged; its builders and Python's own reader of instructions raise many.
        """
        start = file.tell()
        self._read = lambda: file.tell() - start
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in _PUSHED:
                self.stack.append(argument)
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            elif name == "STOP":
                break
            elif name not in ("PROTO", "FRAME"):
                step = getattr(self, f"_do_{name.lower()}", None)
                if step is None:
                    raise ValueError(f"the instruction {name} is not for data")
                step(argument)
        return self.stack.pop()

    def call(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        """What stands for the result of a call: a builder's value, or a record; nothing else is ever called."""
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are no tuple")
        if isinstance(what, PickledName):
            if what.runs_code:
                raise UnsafePickleError(str(what))
            if str(what) in self.builders:
                self._count(*arguments)
                return self.builders[str(what)](*arguments)
            if str(what) == "builtins.getattr" and len(arguments) == 2:
                owner, name = arguments
                if isinstance(owner, PickledName) and isinstance(name, str):  # a class inside a class
                    return PickledName(owner.module, f"{owner.name}.{name}")
            if str(what) == "copyreg.__newobj__" and arguments:
                return self.call(arguments[0], arguments[1:])
            if str(what) == "copyreg._reconstructor" and len(arguments) == 3:  # a class, its base, the base's content
                self._count(arguments[2])
                return _with_content(self.call(arguments[0], ()), arguments[2])
            kind = str(what)
        elif isinstance(what, Record):
            kind = what.kind
        else:
            raise TypeError(f"a call of a {type(what).__name__}")
        self.kinds.add(kind)
        return Record(kind, arguments)

    def check_repeats(self, size: int) -> None:
        """Raise ValueError if a value, written out, is far larger than its pickle: lists of lists of one list."""
        if size > 64 * self._read() + 2**20:
            raise ValueError("a pickle that repeats its own content again and again")

    def _count(self, *copied: Any) -> None:
        """Raise ValueError if far more is copied than the pickle has: a text that is copied a million times."""
        for part in copied:
            self._given += len(part) if hasattr(part, "__len__") and not hasattr(part, "dim") else 0
        if self._given > 4 * self._read() + 2**16:
            raise ValueError("a pickle that copies its own content again and again")

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark from the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _do_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _do_pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def _do_pop_mark(self, _: Any) -> None:
        self.since_mark()

    def _do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _do_put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _do_get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    _do_binget = _do_long_binget = _do_get

    def _do_append(self, _: Any) -> None:
        value = self.stack.pop()
        self._elements(self.stack[-1]).append(value)

    def _do_appends(self, _: Any) -> None:
        values = self.since_mark()
        self._elements(self.stack[-1]).extend(values)

    def _elements(self, target: Any) -> list[Any]:
        if isinstance(target, Record):
            return target.elements
        if isinstance(target, list):
            return target
        raise TypeError(f"elements of a {type(target).__name__}")

    def _do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def _do_setitems(self, _: Any) -> None:
        pairs = self.since_mark()
        self._set(self.stack[-1], pairs)

    def _set(self, target: Any, pairs: list[Any]) -> None:
        if not isinstance(target, dict) or len(pairs) % 2:
            raise TypeError(f"items of a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[as_key(key)] = value

    def _do_additems(self, _: Any) -> None:
        values = self.since_mark()
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(map(as_key, values))
        else:
            self._elements(target).extend(values)

    def _do_list(self, _: Any) -> None:
        self.stack.append(self.since_mark())

    def _do_dict(self, _: Any) -> None:
        pairs, made = self.since_mark(), {}
        self._set(made, pairs)
        self.stack.append(made)

    def _do_frozenset(self, _: Any) -> None:
        self.stack.append(set(map(as_key, self.since_mark())))

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.since_mark()))

    def _do_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _do_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _do_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(PickledName(_PYTHON_2.get(module, module), name))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no string")
        self._do_global(f"{module} {name}")

    def _do_reduce(self, _: Any) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: Any) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        made = self.call(self.stack[-1], arguments)
        if isinstance(made, Record) and isinstance(keywords, dict):
            self._count(keywords)
            made.update(keywords)
        self.stack[-1] = made

    def _do_inst(self, argument: str) -> None:
        arguments = tuple(self.since_mark())
        self._do_global(argument)
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def _do_obj(self, _: Any) -> None:
        what, *arguments = self.since_mark()
        self.stack.append(self.call(what, tuple(arguments)))

    def _do_build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if hasattr(target, "set_state"):  # what a known value does with a state; an ordered dictionary ignores it
            target.set_state(state)
            self._count(target, *(state if isinstance(state, tuple) else ()))

    def _do_binpersid(self, _: Any) -> None:
        self.stack[-1] = self.storage(self.stack[-1])


def _with_content(made: Any, content: Any) -> Any:
    """An object of a class made from Python's dict or list, with what that holds, as protocols 0 and 1 state it."""
    if isinstance(made, Record) and isinstance(content, dict):
        made.update(content)
    elif isinstance(made, Record) and isinstance(content, list):
        made.elements.extend(content)
    return made


def as_key(value: Any) -> Any:
    """A value as a key of a dictionary: the value itself if it is plain, a name for names and records.

    Raises:
        TypeError: the value cannot be a key. (Hashing tuples nested a million deep would overflow the stack.)
    """
    if isinstance(value, _KEYS):
        return value
    if isinstance(value, tuple) and all(isinstance(part, _KEYS) for part in value):
        return value
    if isinstance(value, PickledName):
        return str(value)
    if isinstance(value, Record) and all(isinstance(part, _KEYS) for part in value.arguments):
        return f"{value.kind}({', '.join(f'{part!r:.40}' for part in value.arguments)})"  # a member of an enumeration
    raise TypeError(f"a {type(value).__name__} as a key")
