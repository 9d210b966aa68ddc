import collections
import os
import pathlib
import pickle
import struct
import time

import pickled
import pytest

from lsap_jax.checkpoints import unpickle
from lsap_jax.checkpoints.constructors import NUMPY, PYTHON
from lsap_jax.checkpoints.pickle_machine import Constructor
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
shared = ["shared"]
VALUES = {
    "none": [None, True, False],
    "integers": [0, 1, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**40, -(2**40), 10**600],
    "floats": [0.0, -1.5, 1e300, float("inf")],
    "text": ["", "a", "é\n'\"\\", "x" * 300, "\U0001f600", "\ud800"],
    "bytes": [b"", b"a\x00\xff", b"x" * 300, bytearray(b"\xff"), bytearray()],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((1, (2,)),)],
    "dicts": {"a": {}, "b": {"c": [1]}, (1, "x"): 2, 3: 4, None: 5, 1.5: 6, b"k": 7},
    "sets": [set(), {1, 2}, frozenset({"a", ("b", 1)})],
    "sharing": [shared, shared, {"again": shared}],
    "long": list(range(3000)),  # batches, and memo entries beyond one byte
    "many strings": [str(n) for n in range(700)],
    "complex": 1 + 2j,
}


def load(data, allowed=None, **kwargs):
    return unpickle.read(data, {**PYTHON, **NUMPY, **(allowed or {})}, name="file.pt", **kwargs)[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_reads_what_python_writes(name, protocol):
    value = VALUES[name]
    result = load(pickle.dumps(value, protocol))
    assert result == value
    assert repr(result) == repr(value)  # types too: True is not 1, a bytearray is not bytes


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_become_plain(protocol):
    written = {
        "ordered": collections.OrderedDict(a=1, b=2),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "path": pathlib.PurePosixPath("a/b"),
        "windows": pathlib.PureWindowsPath("a", "b"),
    }
    expected = {
        "ordered": {"a": 1, "b": 2},
        "default": {"a": [1]},
        "counter": {"a": 2, "b": 1},
        "path": "a/b",
        "windows": "a\\b",
    }
    result = load(pickle.dumps(written, protocol))
    assert result == expected
    assert {type(result[key]) for key in ("ordered", "default", "counter")} == {dict}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_namespace_becomes_a_dict(protocol):
    import argparse

    assert load(pickle.dumps([argparse.Namespace(a=1), argparse.Namespace()], protocol)) == [{"a": 1}, {}]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sharing_and_cycles_are_kept(protocol):
    loop = [1]
    loop.append(loop)
    first, second = load(pickle.dumps([loop, loop], protocol))
    assert first is second
    assert first[1] is first


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (rb"S'a\x41\n\'\\\t'" + b"\n.", "aA\n'\\\t"),
        (b'S"\xe9"\n.', "é"),
        (b"U\x02\xe9a.", "éa"),
        (b"T\x02\x00\x00\x00\xe9a.", "éa"),
        (b"V\\u20ac\n.", "€"),
        (b"(I01\nI00\nI-5\nL7L\nL8\nF1.5\nt.", (True, False, -5, 7, 8, 1.5)),
        (b"(lp0\nI1\na(I2\nI3\ne0(I4\n1g0\n.", [1, 2, 3]),
        (b"(S'a'\nI1\nd.", {"a": 1}),
        (b"(I1\n(I2\n10I3\nt.", (3,)),  # POP takes a lone mark away, POP_MARK what is above one
        (b"]K\x01a2\x86.", ([1], [1])),
        (b"(icollections\nOrderedDict\n.", {}),
        (b"(ccollections\nOrderedDict\no.", {}),
        (b"ccollections\nOrderedDict\n)}\x92.", {}),
    ],
)
def test_reads_old_and_rare_operations(data, value):
    assert load(data) == value


def test_keywords_reach_the_constructor():
    allowed = {("m", "f"): Constructor(lambda *args, **kwargs: (args, kwargs))}
    assert load(b"\x80\x04cm\nf\nK\x01\x85}\x8c\x01aK\x02s\x92.", allowed) == ((1,), {"a": 2})


def test_returns_the_end_and_starts_anywhere():
    data = b"junk" + pickle.dumps(1) + pickle.dumps("b")
    value, end = unpickle.read(data, {}, name="f", start=4)
    assert value == 1
    assert unpickle.read(data, {}, name="f", start=end) == ("b", len(data))


def test_persistent_ids_are_resolved_by_the_caller():
    assert load(pickled.dumps([pickled.Persistent(("a", 1))]), persistent=lambda identity: identity[::-1]) == [(1, "a")]
    assert load(b"Pkey\n.", persistent=str.upper) == "KEY"
    with pytest.raises(CheckpointError, match="outside"):
        load(b"Pkey\n.")


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_executed(tmp_path, protocol):
    marker = tmp_path / "ran"
    data = pickle.dumps({"weights": [Evil(marker)]}, protocol)
    with pytest.raises(CheckpointError, match=r"file\.pt: the file asks for \w+\.system.*nothing was executed"):
        load(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"cbuiltins\ngetattr\n.",
        b"ctorch\nload\n.",
        b"cnumpy\nload\n.",
        b"c" + b"x" * 5000 + b"\n\x1b[2J\n.",
    ],
)
def test_other_globals_are_refused_by_name(data):
    with pytest.raises(CheckpointError, match="not on the list") as refusal:
        load(data)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"S'print'\n)R.", "a str is called"),
        (b"cnumpy\nndarray\n)R.", "a str is called"),  # a value that stands for a class is not a class
        (b"ccollections\nOrderedDict\n]R.", "not a list of arguments"),
        (b"]}b.", "state of a list"),
        (b"ccollections\nOrderedDict\n}b.", "state of a Constructor"),
        (b"cargparse\nNamespace\n)R]b\x80\x07.", "protocol 7"),
        (b"\x82\x01.", "extension"),
        (b"\x83\x01\x00.", "extension"),
        (b"\x84\x01\x00\x00\x00.", "extension"),
        (b"\x97.", "out-of-band"),
        (b"\x98.", "out-of-band"),
        (b"K\x01K\x01\x93.", "not a string"),
        (b"\xff.", "not an operation"),
        (b"", "cut short"),
        (b"K", "announced"),
        (b".", "cut short"),
        (b"K\x01", "cut short"),
        (b"t.", "lacks its operands"),
        (b"K\x01\x86.", "lacks its operands"),
        (b"h\x05.", "lacks its operands"),
        (b"K\x01K\x01a.", "appended to a int"),
        (b"](K\x01u.", "stored in a list"),
        (b"}(K\x01u.", "stored in a dict"),
        (b"}(K\x01\x90.", "added to a dict"),
        (b"}]K\x01s.", "list cannot be a dictionary key"),
        (b"\x8f(}\x90.", "dict cannot be a dictionary key"),
        (b"I1", "does not end"),
        (b"Ix\n.", "invalid literal"),
        (b"Sabc\n.", "not quoted"),
        (b"X\x01\x00\x00\x00\xff.", "decode"),
        (b"cbuiltins\nbytes\n(K\x05tR.", "bytes are made of a int"),
        (b"cbuiltins\nlist\n(S'abc'\ntR.", "list is made of a str"),
        (b"cbuiltins\nset\n((]ltR.", "dictionary key"),
        (b"c_codecs\nencode\n(S'abc'\nS'zip'\ntR.", "unknown way"),
        (b"cnumpy\ndtype\n(S'f4'\ntR.", "without its contents"),
        (b"cnumpy\ndtype\n(S'f4'\ntR0N.", "without its contents"),
        (b"cnumpy\ndtype\n(S'f4'\ntR2.", "before it has its contents"),
        (b"cnumpy\ndtype\n(S'f4'\ntRq\x00h\x00.", "contains itself"),
        (b"cnumpy\ndtype\n(S'f4'\ntR\x85.", "without its contents"),
    ],
)
def test_malformed_programs_are_reported(data, message):
    with pytest.raises(CheckpointError, match=rf"^file\.pt: .*{message}"):
        load(data)


HUGE = [
    b"X" + struct.pack("<I", 2**32 - 1),
    b"\x8d" + struct.pack("<Q", 2**63),
    b"B" + struct.pack("<I", 2**31),
    b"\x8e" + struct.pack("<Q", 2**64 - 1),
    b"\x96" + struct.pack("<Q", 2**40),
    b"\x8b" + struct.pack("<i", -1),
    b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20 + b".",
    b"T" + struct.pack("<i", -5),
    b"\x95" + struct.pack("<Q", 2**62),
    b"I" + b"9" * 10**6 + b"\n.",
    b"r" + struct.pack("<I", 2**32 - 1),
    b"(" * 10**5,
    b")" + b"\x85" * 10**5 + b"q\x00}h\x00N" + b"s.",  # hashing this would overflow the C stack
    b"\x8f(" + b")" + b"\x85" * 10**5 + b"\x90.",
    b"X" + struct.pack("<I", 10**5) + b"x" * 10**5 + b"q\x00" + b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R" * 10**4,
    b"(" + b"K\x00" * 10**5 + b"tq\x00" + b"cbuiltins\nlist\nh\x00\x85R0" * 10**4,
]


@pytest.mark.parametrize("data", HUGE, ids=range(len(HUGE)))
def test_hostile_sizes_end_quickly(data):
    start = time.process_time()
    with pytest.raises(CheckpointError):
        load(data)
    assert time.process_time() - start < 5


def test_deep_nesting_is_no_problem():
    value = load(b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    depth = 1
    while value:
        (value,), depth = value, depth + 1
    assert depth == 10**5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_is_always_a_checkpoint_error(protocol):
    data = pickle.dumps({**VALUES, "long": 0, "many strings": 0}, protocol)
    failures = 0
    for broken in pickled.damaged(data, truncations=len(data), flips=1000):
        try:
            load(broken)
        except CheckpointError:
            failures += 1
    assert failures >= len(data)  # every truncation, and some of the flips
