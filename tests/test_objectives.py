"""Terms and their judges: parity of the code terms with the reference toolbox, and what loads what."""

import golden
import jax
import jax.numpy as jnp
import moco_network
import numpy as np
import pytest
import tiny

from lsap_jax import objectives
from lsap_jax.checkpoints import convert_moco, convert_stylegan2
from lsap_jax.errors import CheckpointError, ConfigError
from lsap_jax.latent import alignment, spaces
from lsap_jax.networks import moco
from lsap_jax.training import progressive

LSAP = (("delta", 2e-4), ("sncd", 0.5))


@pytest.fixture(scope="module")
def toolbox():
    """Generator, judges and codes of the golden case."""
    state = golden.state_dict("c_sncd1024", "keys_generator.json")
    G = convert_stylegan2.generator_from_checkpoint({"g_ema": state, "latent_avg": np.zeros(512, np.float32)}, "golden")
    samples = G.broadcast(jnp.asarray(golden.normal("input:sncd_w64", (64, 512))))
    anchors = tuple(s.mean(0) for s in spaces.normalized_styles(G.styles(samples)))
    judges = objectives.Judges(alignment=alignment.Alignment(anchors, jnp.zeros(18), jnp.ones(18)))
    return G, judges, jnp.asarray(golden.normal("input:sncd_wplus", (4, 18, 512)))


def batch_loss(terms, G, judges, ws, open_rows):
    """Mean over a batch of the weighted terms, as training takes it."""
    image, fixed = jnp.zeros((8, 8, 3)), {name: None for name, _ in terms}

    def one(ws):
        return objectives.loss(terms, judges, G, image, ws, (), fixed, 8, open_rows)[0]

    return jax.vmap(one)(ws).mean()


def test_losses_of_a_progressive_stage_are_those_of_the_reference(toolbox):
    want, (G, judges, ws) = golden.expected("c_sncd1024"), toolbox
    rows = progressive.open_rows(18, 5)
    golden.assert_close(batch_loss(LSAP[:1], G, judges, ws, rows), want["loss_delta_stage5"], 1e-5)
    # The reference sums -cosine, this project 1 - cosine: half of the number of open layers more.
    sncd = batch_loss(LSAP[1:], G, judges, ws, rows)
    golden.assert_close(sncd - 3, want["loss_sncd_stage5"], 1e-5)
    value, gradient = jax.value_and_grad(lambda ws: batch_loss(LSAP, G, judges, ws, rows))(ws)
    golden.assert_close(value - 3, want["loss_lsap_stage5"], 1e-5)
    golden.assert_close_l2(gradient[:1], want["grad_lsap_stage5"], 1e-4)
    np.testing.assert_array_equal(gradient[:, 6:], 0)


@pytest.mark.fast
def test_rows_that_repeat_the_first_cost_nothing():
    G = tiny.generator()
    ws = jax.random.normal(jax.random.key(0), (2, G.num_ws, 16))
    rows = progressive.open_rows(G.num_ws, 3)
    repeated = jnp.where(rows[None, :, None] > 0, ws, ws[:, :1])
    terms, judges = (("delta", 1.0),), objectives.Judges()
    got = batch_loss(terms, G, judges, repeated, rows)
    np.testing.assert_allclose(got, jnp.linalg.norm(ws[:, 1:4] - ws[:, :1], axis=-1).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(got, batch_loss(terms, G, judges, repeated, None), rtol=1e-5)


@pytest.mark.fast
def test_moco_is_one_minus_the_cosine():
    judge = moco.Moco(jax.tree.map(jnp.asarray, convert_moco.convert(moco_network.checkpoint())))
    judges, images = objectives.Judges(moco=judge), jnp.asarray(moco_network.images())
    terms = (("moco", 0.5),)
    fixed = objectives.targets(terms, judges, images[0], 256)
    total, values = objectives.loss(terms, judges, None, images[1], jnp.zeros((3, 8)), (), fixed, 256)
    np.testing.assert_allclose(values["moco"], golden.expected("moco_narrow")["loss_f64"], atol=1e-6)
    np.testing.assert_allclose(total, 0.5 * values["moco"])
    assert float(objectives.loss(terms, judges, None, images[0], jnp.zeros((3, 8)), (), fixed, 256)[0]) < 1e-5


@pytest.mark.fast
def test_judges_that_need_a_file_ask_for_it(tmp_path):
    G = tiny.generator()
    with pytest.raises(ConfigError, match=r"moco_v2_800ep_pretrain\.pth\.tar.*moco_weights"):
        objectives.judges_for(G, (("moco", 1.0),))
    with pytest.raises(CheckpointError, match="nowhere"):
        objectives.judges_for(G, (("moco", 1.0),), moco_weights=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="nowhere"):
        objectives.judges_for(G, (("id", 1.0),), id_weights=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nothing_such"):
        objectives.judges_for(G, (("nothing_such", 1.0),))
    # A file that no term asks for is not opened.
    assert objectives.judges_for(G, (("l2", 1.0),), str(tmp_path / "nowhere"), str(tmp_path / "nowhere")).moco is None


@pytest.mark.weights("lpips-vgg")
def test_idinvert_compares_conv4_3():
    G, photos = tiny.shallow(), tiny.photos(tiny.shallow(), 2)
    judges = objectives.judges_for(G, (("vgg_conv4_3", 1.0),))
    terms = (("vgg_conv4_3", 2.0),)
    target = objectives.targets(terms, judges, photos[0], 32)
    ws = G.broadcast(G.w_avg[None])[0]
    same = objectives.loss(terms, judges, G, photos[0], ws, G.noise, target, 32)[0]
    other, values = objectives.loss(terms, judges, G, photos[1], ws, G.noise, target, 32)
    a, b = (judges.lpips_vgg.activations(photo[None], ("conv4_3",))[0] for photo in photos)
    assert float(same) == 0
    np.testing.assert_allclose(values["vgg_conv4_3"], jnp.square(a - b).mean(), rtol=1e-5)
    np.testing.assert_allclose(other, 2 * values["vgg_conv4_3"], rtol=1e-6)
