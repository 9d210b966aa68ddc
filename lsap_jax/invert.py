"""`python -m lsap_jax.invert`. Run it, do not import it: `lsap_jax.invert` is the function of that name."""

from absl import app, logging

from lsap_jax.commands import invert

if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it did not find
    app.run(invert.main, flags_parser=invert.parse)
