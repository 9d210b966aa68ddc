import pathlib
from collections import OrderedDict

import numpy as np
import pickled
import pytest
from pickled import Call, Name

from lsap_jax.checkpoints import nvidia_pickle
from lsap_jax.errors import CheckpointError

pytestmark = pytest.mark.fast
SIGMA = np.arange(3, dtype=np.float32)
# Would leave a trace if anything ran it.
SOURCE = "import pathlib; pathlib.Path({!r}).touch()\nclass Generator: pass\n"


def easy(**items):
    return Call(Name("dnnlib.util", "EasyDict"), (items,))


def module(
    class_name, parameters=(), buffers=(), modules=(), transient=(), source="", args=(), kwargs=None, **attributes
):
    """An object of `torch_utils.persistence`, as NVIDIA's code pickles it."""
    fields = {
        "training": False,
        "_parameters": OrderedDict(parameters),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(transient),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(modules),
        **attributes,
        "_init_args": args,
        "_init_kwargs": kwargs or {},
    }
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": fields}
    return Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))


def arrays():
    random = np.random.default_rng(0)
    return {
        "mapping.embed.weight": random.normal(size=(4, 3)).astype(np.float32),
        "mapping.fc0.weight": random.normal(size=(4, 4)).astype(np.float16),
        "mapping.w_avg": random.normal(size=4).astype(np.float32),
        "synthesis.b4.const": random.normal(size=(2, 4, 4)).astype(np.float32),
        "synthesis.b4.conv1.weight": random.normal(size=(2, 2, 3, 3)).astype(np.float32),
        "synthesis.b4.conv1.noise_const": random.normal(size=(4, 4)).astype(np.float32),
        "synthesis.b4.conv1.steps": np.arange(2),
    }


def generator(source=""):
    a = {name: pickled.tensor(array, parameter="weight" in name) for name, array in arrays().items()}
    gain = Call(Name("numpy.core.multiarray", "scalar"), (dtype("f8"), np.float64(2).tobytes()))
    embed = module("FullyConnectedLayer", {"weight": a["mapping.embed.weight"], "bias": None}, source=source)
    fc0 = module("FullyConnectedLayer", {"weight": a["mapping.fc0.weight"]}, activation="lrelu", source=source)
    conv1 = module(
        "SynthesisLayer",
        {"weight": a["synthesis.b4.conv1.weight"]},
        {"noise_const": a["synthesis.b4.conv1.noise_const"], "steps": a["synthesis.b4.conv1.steps"]},
        act_gain=gain,
        up=2,
        source=source,
    )
    kernel = pickled.tensor(SIGMA)
    b4 = module(
        "SynthesisBlock",
        {"const": a["synthesis.b4.const"]},
        {"kernel": kernel},
        {"conv1": conv1, "skip": None},
        transient=["kernel"],
        source=source,
    )
    mapping = module(
        "MappingNetwork", {}, {"w_avg": a["mapping.w_avg"]}, {"embed": embed, "fc0": fc0}, num_ws=2, source=source
    )
    synthesis = module("SynthesisNetwork", modules={"b4": b4}, resolution=4, source=source)
    return module(
        "Generator",
        modules={"synthesis": synthesis, "mapping": mapping},
        kwargs={"z_dim": 4, "synthesis_kwargs": easy(channel_max=2)},
        args=(1,),
        z_dim=4,
        source=source,
    )


def dtype(text):
    return Call(Name("numpy", "dtype"), (text, False, True), (3, "<", None, None, None, -1, -1, 0))


def snapshot(source=""):
    return {
        "training_set_kwargs": easy(path="x.zip", use_labels=True),
        "G": generator(source),
        "G_ema": generator(source),
        "augment_pipe": None,
    }


@pytest.mark.parametrize("protocol", [2, 4])
def test_reads_a_snapshot(tmp_path, protocol):
    marker = tmp_path / "ran"
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(pickled.dumps(snapshot(SOURCE.format(str(marker))), protocol))
    found = nvidia_pickle.read(path)
    assert list(found) == ["training_set_kwargs", "G", "G_ema", "augment_pipe"]
    assert found["training_set_kwargs"] == {"path": "x.zip", "use_labels": True}
    assert found["augment_pipe"] is None
    network = found["G_ema"]
    assert network.class_name == "Generator"
    assert network.init_args == (1,)
    assert network.init_kwargs == {"z_dim": 4, "synthesis_kwargs": {"channel_max": 2}}
    expected = arrays()
    order = [*(n for n in expected if n.startswith("synthesis")), *(n for n in expected if n.startswith("mapping"))]
    # PyTorch's order: a module's own tensors, then those of its children in their order.
    order.remove("mapping.w_avg")
    order.insert(order.index("mapping.embed.weight"), "mapping.w_avg")
    assert list(network.state) == order
    for name, array in expected.items():
        np.testing.assert_array_equal(network.state[name], array, strict=True)
        assert network.state[name].flags.writeable
    assert network.attributes["z_dim"] == 4
    assert network.attributes["synthesis.resolution"] == 4
    assert network.attributes["synthesis.b4.conv1.act_gain"] == np.float64(2)
    assert network.attributes["synthesis.b4.conv1.up"] == 2
    assert network.attributes["mapping.fc0.activation"] == "lrelu"
    assert not any("._" in name or name.startswith("_") for name in network.attributes)
    assert not marker.exists()


def check_refused(value, message):
    with pytest.raises(CheckpointError, match=message):
        nvidia_pickle.read(value if isinstance(value, bytes) else pickled.dumps(value))


def test_tensorflow_pickles_are_refused_with_the_cure():
    network = Call(Name("dnnlib.tflib.network", "Network"), (), {"version": 4, "build_module_src": "boom"})
    check_refused((network, network, network), "TensorFlow.*legacy.py")


def test_other_contents_are_refused_by_name():
    check_refused({"G": Call(Name("os", "system"), ("true",))}, "os.system.*nothing was executed")
    check_refused({"G": Call(Name("torch.storage", "_load_from_bytes"), (b"\x80\x02cos\nsystem\n.",))}, "plain pickle")
    evil = pickled.torch_file(Call(Name("os", "system"), ("true",)), {})
    check_refused({"G": Call(Name("torch.storage", "_load_from_bytes"), (evil,))}, "os.system")
    check_refused({"G": Call(Name("torch.storage", "_load_from_bytes"), ("text",))}, "storage is not one")


def test_wrong_contents_are_refused():
    persistent = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
    check_refused({"G": 1}, "no dictionary of networks")
    check_refused([generator()], "no dictionary of networks")
    check_refused({"G": Call(persistent, ({"type": "function"},))}, "not described as a class")
    check_refused({"G": Call(persistent, ({"type": "class", "class_name": "G"},))}, "lacks its class name or state")
    check_refused({"G_ema": module("Generator", {"weight": [1.0]})}, "G_ema.weight is a list, not a tensor")
    check_refused({"G_ema": module("Generator", modules={"b4": 3})}, "G_ema.b4 is a int, not a module")
    check_refused({"G_ema": module("Generator", {3: None})}, "G_ema._parameters is not a dictionary of names")
    check_refused(b"<html>Not found</html>", "web page")
    check_refused(b"\x93NUMPY\x01\x00", r"not an NVIDIA network pickle but an \.npy")


def test_modules_without_end_are_refused():
    check_refused(
        # A dict of modules is remembered as 0, the network that holds it as 1, and then stored in the dict.
        b"\x80\x02}q\x000ctorch_utils.persistence\n_reconstruct_persistent_obj\n}("
        b"U\x04typeU\x05classU\x0aclass_nameU\x04LoopU\x05state}U\x08_modulesh\x00su\x85Rq\x010"
        b"h\x00U\x05againh\x01s0}U\x01Gh\x01s.",
        "more than 10000 modules",
    )
    node = module("Leaf")
    for _ in range(40):  # 2^40 paths in a file of a few KB
        node = module("Node", modules={"a": node, "b": node})
    check_refused({"G": node}, "more than 10000 modules")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"ffhq\.pkl: no such file"):
        nvidia_pickle.read(pathlib.Path(tmp_path) / "ffhq.pkl")


def test_damage_is_always_a_checkpoint_error():
    data = pickled.dumps(snapshot("source"), 4)
    failures = 0
    for broken in pickled.damaged(data, flips=200):
        try:
            nvidia_pickle.read(broken)
        except CheckpointError:
            failures += 1
    assert failures >= 30
