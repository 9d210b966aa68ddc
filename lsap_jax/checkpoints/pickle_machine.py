"""The state of a pickle machine: its stacks, its memo, its position in the stream, and what it may call.

`unpickle` says what the machine is for; `pickle_operations` has the operations that drive it.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lsap_jax.errors import CheckpointError

_SCALARS = (str, bytes, int, float, complex, type(None), np.generic)
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


@dataclasses.dataclass(frozen=True)
class Constructor:
    """A function that a pickle may call. It reports bad arguments by ValueError or TypeError."""

    make: Callable[..., Any]


class Unsupported(ValueError):
    """A sound file holds something that is not read. Raised by constructors; the message says what to do."""


class Buildable:
    """An object whose state a pickle may set."""

    def build(self, state: Any) -> Any:
        """Take the state; return what stands for the object from now on (often itself)."""
        raise NotImplementedError


class Pending(Buildable):
    """A `Buildable` that is worth nothing before its state is set, such as an array without its contents.

    The machine replaces it by what `build` returns, and refuses a file that refers to it before that.
    """

    def __init__(self) -> None:
        self.memo_keys: list[int] = []


Allowed = Mapping[tuple[str, str], Any]


def key(value: Any) -> Any:
    """Return `value` if it may be a dictionary key or a member of a set: a scalar or a short flat tuple.

    Deeper values are refused because Python hashes nested tuples by unguarded recursion.

    Raises:
      ValueError: if it is anything else.
    """
    if isinstance(value, tuple) and len(value) <= 64 and all(isinstance(item, _SCALARS) for item in value):
        return value
    if not isinstance(value, _SCALARS):
        raise ValueError(f"a {type(value).__name__} cannot be a dictionary key in a weight file")
    return value


def _size(value: Any, depth: int = 2) -> int:
    """How much a constructor may have to copy when it is given `value`."""
    if not isinstance(value, _SIZED):
        return 1
    if depth and isinstance(value, tuple) and len(value) <= 64:  # arguments, or a state: what they hold counts
        return sum(_size(item, depth - 1) for item in value)
    return len(value)


class Machine:
    """The stacks, the memo and the read position of one run."""

    def __init__(self, data: bytes, allowed: Allowed, name: str, persistent: Callable | None, start: int) -> None:
        self.data, self.allowed, self.name, self.persistent, self.position = data, allowed, name, persistent, start
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.unfinished = 0
        self.budget = 16 * len(data) + 2**20

    # Reading the stream

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.position + count
        if end > len(self.data):
            raise ValueError(f"{count} more bytes are announced, {len(self.data) - self.position} are there")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def number(self, width: int) -> int:
        """An unsigned little-endian integer of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        """Everything up to the next newline, which is dropped."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("a line does not end")
        text = self.data[self.position : end]
        self.position = end + 1
        return text

    def names(self) -> tuple[str, str]:
        """Two lines: a module and a name in it."""
        return self.line().decode(), self.line().decode()

    # The stack

    def push(self, value: Any) -> None:
        """Put a value on the stack; unfinished ones are counted."""
        self.unfinished += isinstance(value, Pending)
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """Everything above the topmost mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def result(self) -> Any:
        """What STOP returns."""
        value = self.stack.pop()
        if self.unfinished:
            raise ValueError("an array or dtype was left without its contents")
        return value

    def remember(self, where: int) -> None:
        """Store the top of the stack in the memo."""
        value = self.stack[-1]
        self.memo[where] = value
        if isinstance(value, Pending):
            value.memo_keys.append(where)

    def recall(self, where: int) -> None:
        """Push what the memo holds."""
        value = self.memo[where]
        if isinstance(value, Pending):
            raise ValueError("an object contains itself")
        self.stack.append(value)

    # Globals and objects

    def find(self, module: Any, name: Any) -> Any:
        """Look a global up in the allow-list."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global is named by something that is not a string")
        canonical = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        canonical = re.sub(r"^numpy\.core\b", "numpy._core", canonical)
        try:
            return self.allowed[canonical, name]
        except KeyError:
            asked = f"{module}.{name}"
            asked = asked if asked.isprintable() and len(asked) < 200 else repr(asked[:200])
            raise CheckpointError(
                f"{self.name}: the file asks for {asked}, which is not on the list of what a weight file may contain; "
                "nothing was executed. If you trust its author, save the bare tensors (a state_dict) with the program "
                "that wrote it and read that"
            ) from None

    def spend(self, value: Any) -> None:
        """Charge a constructor's arguments, so that one large value cannot be copied over and over."""
        self.budget -= _size(value)
        if self.budget < 0:
            raise ValueError("the file repeats large values far beyond its own size")

    def call(self, constructor: Any, args: Any, kwargs: Any = None) -> None:
        """Call a constructor of the allow-list and push its result."""
        if not isinstance(constructor, Constructor):
            raise ValueError(f"a {type(constructor).__name__} is called like a function")
        if not isinstance(args, tuple) or not isinstance(kwargs, dict | None):
            raise ValueError("a constructor is given something that is not a list of arguments")
        self.spend(args)
        self.push(constructor.make(*args, **(kwargs or {})))

    def build(self) -> None:
        """BUILD: hand an object its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is dict:
            return  # attributes of an OrderedDict, such as a state_dict's `_metadata`
        if not isinstance(target, Buildable):
            raise ValueError(f"the state of a {type(target).__name__} is set")
        self.spend(state)
        value = self.stack[-1] = target.build(state)
        if isinstance(target, Pending):
            self.unfinished -= 1
            for where in target.memo_keys:
                if self.memo.get(where) is target:
                    self.memo[where] = value

    def resolve(self, identity: Any) -> None:
        """PERSID and BINPERSID."""
        if self.persistent is None:
            raise ValueError("it refers to data outside of itself")
        self.push(self.persistent(identity))
