import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_encoder
from tiny_encoder import images

from lsap_jax.data import resize
from lsap_jax.embed.encode import check_fits, encode
from lsap_jax.errors import ConfigError, ImageError

SIZES = {"num_ws": 3, "resolution": 16}  # of codes of the shallow generator, which renders 32 pixels


def restyle():
    E = tiny_encoder.encoder(input="rgb+render", levels="last", **SIZES)
    return E.replace(start=tiny.shallow().broadcast(tiny.shallow().w_avg[None])[0])


def test_restyle_is_its_loop():
    G, E, x = tiny.shallow(), restyle(), images(size=16)
    ws = jnp.stack([E.start] * 2)
    for _ in range(3):
        rendered = resize.area(G.synthesize(ws), 16)
        ws = ws + E.offsets(x, render=rendered)
    np.testing.assert_allclose(encode(E, G, x, iterations=3), ws, rtol=1e-5, atol=1e-5)
    first = E(x, render=jnp.repeat(resize.area(G.synthesize(E.start[None]), 16), 2, 0))
    np.testing.assert_allclose(encode(E, G, x), first, rtol=1e-5, atol=1e-5)
    assert not np.allclose(first, ws)


def test_others_encode_at_once():
    G, E = tiny.shallow(), tiny_encoder.encoder(**SIZES)
    np.testing.assert_array_equal(encode(E, G, images(size=32)), E(images(size=32)))
    masked, mask = tiny_encoder.encoder(input="rgb+mask", **SIZES), jnp.zeros((2, 16, 16, 1))
    x = images(size=16)
    np.testing.assert_array_equal(encode(masked, G, x, mask=mask), masked(x, mask=mask))


@pytest.mark.fast
def test_what_does_not_fit_is_an_error():
    G, E = tiny.shallow(), tiny_encoder.encoder(**SIZES)
    with pytest.raises(ConfigError, match=r"codes of shape \(9, 8\), and the generator takes \(3, 8\)"):
        encode(tiny_encoder.encoder(), G, images())
    with pytest.raises(ConfigError, match="only ReStyle's iterate"):
        encode(E, G, images(), iterations=2)
    with pytest.raises(ConfigError, match="iterations 0"):
        encode(E, G, images(), iterations=0)
    with pytest.raises(ConfigError, match="takes no `mask`"):
        encode(restyle(), G, images(), mask=jnp.ones((2, 32, 32, 1)))
    with pytest.raises(ImageError, match="40 x 40"):
        encode(restyle(), G, images(size=40))
    check_fits(E, G)
    check_fits(E.replace(generator=G.fingerprint), G)
    with pytest.raises(ConfigError, match=r"tiny makes codes of generator 00ff, and shallow-0 is [0-9a-f]{16}"):
        check_fits(E.replace(generator="00ff"), G)
    with pytest.raises(ConfigError, match="not made for one another"):
        check_fits(E.replace(arch=dataclasses.replace(E.arch, num_ws=4)), G)
