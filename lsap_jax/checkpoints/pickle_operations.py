"""The operations of the pickle machine, by their codes.

Source: the descriptions in CPython's `pickletools`.
"""

import re
import struct
from collections.abc import Callable
from typing import Any

from lsap_jax.checkpoints.pickle_machine import Machine, Pending, key

HIGHEST_PROTOCOL = 5
_LONGEST_INTEGER = 1024  # bytes; Python refuses to print integers much longer, and no weight file has one

# Operations without operands in the stream


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _pop_mark(m: Machine) -> None:
    m.pop_mark()


def _duplicate(m: Machine) -> None:
    if isinstance(m.stack[-1], Pending):
        raise ValueError("an object is used before it has its contents")
    m.stack.append(m.stack[-1])


def _mark(m: Machine) -> None:
    m.outer.append(m.stack)
    m.stack = []


def _tuple(count: int) -> Callable[[Machine], None]:
    def operation(m: Machine) -> None:
        if len(m.stack) < count:
            raise ValueError("an operation lacks its operands")
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return operation


def _append(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if not isinstance(target, list):
        raise ValueError(f"items are appended to a {type(target).__name__}")
    target.extend(items)


def _update(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError(f"keys and values are stored in a {type(target).__name__}")
    for name, value in zip(items[::2], items[1::2], strict=True):
        target[key(name)] = value


def _add(m: Machine) -> None:
    items, target = m.pop_mark(), m.stack[-1]
    if not isinstance(target, set):
        raise ValueError(f"members are added to a {type(target).__name__}")
    target.update(map(key, items))


def _dictionary(m: Machine) -> None:
    items = m.pop_mark()
    m.stack.append({})
    _update(m, items)


def _set_item(m: Machine) -> None:
    value, name = m.stack.pop(), m.stack.pop()
    _update(m, [name, value])


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.push(m.find(module, name))


def _reduce(m: Machine) -> None:
    args, constructor = m.stack.pop(), m.stack.pop()
    m.call(constructor, args)


def _new_with_keywords(m: Machine) -> None:
    kwargs, args, constructor = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.call(constructor, args, kwargs)


def _instance(m: Machine) -> None:
    constructor = m.find(*m.names())
    m.call(constructor, tuple(m.pop_mark()))


def _object(m: Machine) -> None:
    constructor, *args = m.pop_mark()
    m.call(constructor, tuple(args))


def _protocol(m: Machine) -> None:
    if (version := m.number(1)) > HIGHEST_PROTOCOL:
        raise ValueError(f"pickle protocol {version} is unknown")


def _frame(m: Machine) -> None:
    if (size := m.number(8)) > len(m.data) - m.position:
        raise ValueError(f"a frame of {size} bytes is announced, {len(m.data) - m.position} are there")


def _refuse(what: str) -> Callable[[Machine], None]:
    def operation(m: Machine) -> None:
        raise ValueError(f"{what} is used, which no weight file needs")

    return operation


# Literals


_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _unescape(match: re.Match[bytes]) -> bytes:
    code, character = match.groups()
    return bytes([int(code, 16)]) if code else _ESCAPED.get(character, character)


def _quoted(line: bytes) -> str:
    """Python 2's repr of a byte string, decoded as Latin-1 so that no byte is lost."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string is not quoted")
    plain = _ESCAPE.sub(_unescape, line[1:-1])
    return plain.decode("latin-1")


def _integer_text(line: bytes) -> int:
    if len(line) > _LONGEST_INTEGER:
        raise ValueError("an integer is absurdly long")
    return {b"00": False, b"01": True}.get(line, int(line.rstrip(b"L")))


def _integer_bytes(chunk: bytes) -> int:
    if len(chunk) > _LONGEST_INTEGER:
        raise ValueError("an integer is absurdly long")
    return int.from_bytes(chunk, "little", signed=True)


def _utf8(chunk: bytes) -> str:
    return chunk.decode("utf-8", "surrogatepass")


def _latin1(chunk: bytes) -> str:
    return chunk.decode("latin-1")


# Every operation but STOP, by its code

OPERATIONS: dict[int, Callable[[Machine], None]] = {
    ord(code): operation
    for code, operation in {
        # the stack and the memo
        b"(": _mark,
        b"0": _pop,
        b"1": _pop_mark,
        b"2": _duplicate,
        b"p": lambda m: m.remember(_integer_text(m.line())),
        b"q": lambda m: m.remember(m.number(1)),
        b"r": lambda m: m.remember(m.number(4)),
        b"\x94": lambda m: m.remember(len(m.memo)),
        b"g": lambda m: m.recall(_integer_text(m.line())),
        b"h": lambda m: m.recall(m.number(1)),
        b"j": lambda m: m.recall(m.number(4)),
        # constants and numbers
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        b"I": lambda m: m.push(_integer_text(m.line())),
        b"L": lambda m: m.push(_integer_text(m.line())),
        b"F": lambda m: m.push(float(m.line())),
        b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        b"K": lambda m: m.push(m.number(1)),
        b"M": lambda m: m.push(m.number(2)),
        b"J": lambda m: m.push(_integer_bytes(m.take(4))),
        b"\x8a": lambda m: m.push(_integer_bytes(m.take(m.number(1)))),
        b"\x8b": lambda m: m.push(_integer_bytes(m.take(m.number(4)))),
        # strings and bytes
        b"S": lambda m: m.push(_quoted(m.line())),
        b"T": lambda m: m.push(_latin1(m.take(m.number(4)))),
        b"U": lambda m: m.push(_latin1(m.take(m.number(1)))),
        b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        b"X": lambda m: m.push(_utf8(m.take(m.number(4)))),
        b"\x8c": lambda m: m.push(_utf8(m.take(m.number(1)))),
        b"\x8d": lambda m: m.push(_utf8(m.take(m.number(8)))),
        b"C": lambda m: m.push(m.take(m.number(1))),
        b"B": lambda m: m.push(m.take(m.number(4))),
        b"\x8e": lambda m: m.push(m.take(m.number(8))),
        b"\x96": lambda m: m.push(bytearray(m.take(m.number(8)))),
        # containers
        b")": lambda m: m.push(()),
        b"]": lambda m: m.push([]),
        b"}": lambda m: m.push({}),
        b"\x8f": lambda m: m.push(set()),
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"t": lambda m: m.push(tuple(m.pop_mark())),
        b"l": lambda m: m.push(m.pop_mark()),
        b"d": _dictionary,
        b"\x91": lambda m: m.push(frozenset(map(key, m.pop_mark()))),
        b"a": lambda m: _append(m, [m.stack.pop()]),
        b"e": lambda m: _append(m, m.pop_mark()),
        b"s": _set_item,
        b"u": lambda m: _update(m, m.pop_mark()),
        b"\x90": _add,
        # globals and objects
        b"c": lambda m: m.push(m.find(*m.names())),
        b"\x93": _stack_global,
        b"R": _reduce,
        b"\x81": _reduce,  # NEWOBJ: a class and its arguments; a constructor is called either way
        b"\x92": _new_with_keywords,
        b"i": _instance,
        b"o": _object,
        b"b": lambda m: m.build(),
        b"P": lambda m: m.resolve(m.line().decode("ascii")),
        b"Q": lambda m: m.resolve(m.stack.pop()),
        # the frame of the stream, and what is refused
        b"\x80": _protocol,
        b"\x95": _frame,
        b"\x82": _refuse("the extension registry"),
        b"\x83": _refuse("the extension registry"),
        b"\x84": _refuse("the extension registry"),
        b"\x97": _refuse("an out-of-band buffer"),
        b"\x98": _refuse("an out-of-band buffer"),
    }.items()
}
