"""`python -m lsap_jax.invert`. Run it, do not import it: `lsap_jax.invert` is the function of that name."""

from absl import app

from lsap_jax.commands import invert

if __name__ == "__main__":
    app.run(invert.main)
