import numpy as np
import pytest

from lsap_jax.embed import preconditioner
from lsap_jax.pretrained import load_generator
from tools import fit_preconditioner

pytestmark = pytest.mark.weights("ffhq-mobile", "lpips-vgg")


def test_what_it_writes_is_read_back(tmp_path, capsys):
    path = tmp_path / "p.npz"
    assert fit_preconditioner.main(["--out", str(path), "--probes", "2"]) == 0
    assert "for ffhq-mobile (" in capsys.readouterr().out
    P = preconditioner.read(path, load_generator("ffhq-mobile"))
    assert P is not None
    assert np.isfinite(P.axes).all()
    assert ((P.reach > 0.5).sum(1) == 2).all()  # two probes span two axes of each row
    _, meta = preconditioner.store.load(path)
    assert meta["command"].endswith("--probes 2 --seed 0")
