import json

import jax.numpy as jnp
import numpy as np
import pytest

from lsap_jax.checkpoints import store
from lsap_jax.edit import directions
from tools import gather_bank

pytestmark = pytest.mark.fast


def direction(name, fingerprint="abc"):
    vector = jnp.asarray(np.random.RandomState(len(name)).randn(8), jnp.float32)
    return directions.Direction(
        name, vector, jnp.ones(3), 0.5, "sigma", "w", fingerprint, "test", {"sigma": jnp.float32(0.5)}
    )


def run(folder, *found):
    folder.mkdir()
    directions.save_bank(folder / "directions.npz", found)
    entries = [{"name": d.name, "measures": {"R": {"mean": 0.1, "spread": 0.0, "count": 1}}} for d in found]
    record = {"settings": {"method": "sefa", "out": "elsewhere"}, "directions": entries}
    (folder / "bank.json").write_text(json.dumps(record))
    return folder


def test_directions_are_taken_renamed_and_turned(tmp_path):
    a, b = run(tmp_path / "a", direction("one"), direction("second")), run(tmp_path / "b", direction("one"))
    out = tmp_path / "bank.npz"
    assert gather_bank.main(["--out", str(out), "--take", f"{a}#second", f"{b}#-one=three", "--note", "a note"]) == 0
    second, three = directions.load_bank(out)
    assert (second.name, three.name) == ("second", "three")
    np.testing.assert_array_equal(second.vector, direction("second").vector)
    np.testing.assert_array_equal(three.vector, -direction("one").vector)
    assert float(three.scale) == 0.5
    _, meta = store.load(out)
    assert meta["notes"] == ["a note"]
    assert meta["found_by"]["three"]["settings"] == {"method": "sefa"}
    assert meta["found_by"]["second"]["measures"]["R"]["mean"] == 0.1


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (["a"], "write RUN#NAME"),
        (["a#none"], "no direction is named"),
        (["a#one", "b#one"], "one name"),
        (["a#one", "c#other"], "different generators"),
    ],
)
def test_what_cannot_be_gathered_is_refused(tmp_path, capsys, take, message):
    run(tmp_path / "a", direction("one"))
    run(tmp_path / "b", direction("one"))
    run(tmp_path / "c", direction("other", "def"))
    specs = [f"{tmp_path}/{spec}" if "#" in spec else spec for spec in take]
    assert gather_bank.main(["--out", str(tmp_path / "bank.npz"), "--take", *specs]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bank.npz").exists()
