"""What the commands share of their command line: errors in one line, never a traceback."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from lsap_jax.config import Config
from lsap_jax.errors import LsapError

# Defined here once: tests and notebooks import several commands into one process.
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Python file with get_config(), such as configs/ffhq_mobile.py"
)


def parse(argv: list[str]) -> list[str]:
    """Parse flags as absl does, and end in one line also where the config file or a field of it is at fault."""
    try:
        return app.parse_flags_with_usage(argv)
    except KeyError as error:  # of ml_collections, for a field that does not exist
        sys.exit(f"lsap_jax: --config: {error.args[0]}; the fields are {', '.join(field_names(Config))}")


def parse_own(values: flags.FlagValues, argv: Sequence[str], about: str) -> list[str]:
    """Parse a command's own set of flags, and return the rest; on --help, print `about` and the flags, and end.

    Raises:
      flags.Error: if a flag is unknown or its value impossible.
    """
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    rest = values(list(argv))[1:]
    if values.help:
        print(f"{about}\n{values.get_help()}")
        sys.exit()
    return rest


def no_more(rest: Sequence[str]) -> None:
    """Refuse what is left of a command line of flags alone."""
    if rest:
        raise flags.Error(f"unexpected argument {rest[0]!r}: flags begin with --")


@contextlib.contextmanager
def ends_in_one_line(interrupted: str) -> Iterator[None]:
    """End the program with one line for an error that is the user's to mend, or for Ctrl-C.

    Args:
      interrupted: what becomes of the work after Ctrl-C.
    """
    try:
        yield
    except (LsapError, flags.Error) as error:
        sys.exit(f"lsap_jax: {error}")
    except KeyboardInterrupt:
        sys.exit(f"\nlsap_jax: interrupted; {interrupted}")


def config_of(flag: Any) -> Config:
    """The configuration that `--config` gave; ends with a message where it is missing or cannot be read."""
    if flag.value is None:
        sys.exit("lsap_jax: give --config FILE, for example --config configs/ffhq_mobile.py")
    try:
        _ = flag.value.generator
    except OSError as error:  # ml_collections could not read the file, and says so when a field is first asked for
        sys.exit(f"lsap_jax: --config: {error}")
    return flag.value


def field_names(kind: Any, prefix: str = "") -> list[str]:
    """All fields of a configuration, with dots: ["generator", "invert.preset", ...]."""
    names = []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            names += field_names(field.type, f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names
