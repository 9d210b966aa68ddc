"""A pickle machine that reads data and can execute nothing.

A pickle is a program for a stack machine, and Python's own machine will import and call whatever the
program names. Weight files are pickles, so reading one that way runs its author's code. This module is
another machine for the same programs (protocols 0 to 5). It imports nothing: a global is looked up in an
allow-list that the caller gives, and only what stands there is pushed, called or completed.

An allow-list maps (module, name) to

* a `Constructor`: a function of ours that the program may call with its arguments (REDUCE, NEWOBJ,
  NEWOBJ_EX, INST, OBJ); it sees plain values only and must itself guard against absurd sizes;
* anything else: a plain value that stands for the global, such as a dtype's name.

The state of an object (BUILD) is only ever handed to a `Buildable`, or dropped if the object is a plain
dict: attributes of containers are not data. Every other global is refused by name, as are the extension
registry and out-of-band buffers.

Lengths are checked against what is left of the stream before anything is allocated, constructors may be
fed at most a fixed multiple of the file's size, and there is no recursion, so a hostile file costs time and
memory in proportion to its own size and ends in a `CheckpointError`.

`constructors` has the allow-lists for Python's containers and numpy's arrays.
"""

import struct
from collections.abc import Callable
from typing import Any

from lsap_jax.checkpoints.pickle_machine import Allowed, Machine, Unsupported
from lsap_jax.checkpoints.pickle_operations import OPERATIONS
from lsap_jax.errors import CheckpointError


def read(
    data: bytes,
    allowed: Allowed,
    *,
    name: str,
    persistent: Callable[[Any], Any] | None = None,
    start: int = 0,
) -> tuple[Any, int]:
    """Run one pickle.

    Args:
      data: the bytes that hold it.
      allowed: what it may name. Python 2 spellings (`__builtin__`, `copy_reg`) and `numpy.core` are looked up
        as `builtins`, `copyreg` and `numpy._core`.
      name: what the messages call the file.
      persistent: resolves persistent ids (PyTorch's storages); without it they are refused.
      start: where in `data` the pickle begins.

    Returns:
      (the value, the position after the pickle).

    Raises:
      CheckpointError: if the pickle is damaged, truncated, or asks for something not in `allowed`.
    """
    machine = Machine(data, allowed, name, persistent, start)
    try:
        while True:
            code = machine.data[machine.position]
            machine.position += 1
            if code == 0x2E:  # STOP
                return machine.result(), machine.position
            operation = OPERATIONS.get(code)
            if operation is None:
                raise ValueError(f"{code:#04x} is not an operation of a pickle")
            operation(machine)
    except CheckpointError:
        raise
    except Unsupported as error:
        raise CheckpointError(f"{name}: {error}") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error) as error:
        reason = str(error)
        if isinstance(error, LookupError):  # a pop from an empty stack, an unknown memo entry, or the end of the data
            reason = "it is cut short" if machine.position >= len(data) else "an operation lacks its operands"
        raise CheckpointError(
            f"{name}: damaged or not a weight file (byte {machine.position}: {reason}); get the file again"
        ) from error
