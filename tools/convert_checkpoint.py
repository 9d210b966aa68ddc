"""Convert a published StyleGAN2 checkpoint to one self-describing `.npz`, which `lj.load_generator` reads at once.

    python tools/convert_checkpoint.py IN OUT.npz [--discriminator] [--source TEXT] [--licence TEXT]

IN is an NVIDIA network pickle, or a PyTorch file of rosinality's code, pSp, e4e, ReStyle or GANInverter; it is
recognised by its contents, and nothing in it is executed. With --discriminator its discriminator is taken in place of
its generator. A mean of w that the file lacks is computed from 100,000 samples (some seconds).
"""

import argparse
import hashlib
import pathlib
import sys
from collections.abc import Sequence

from lsap_jax.checkpoints import convert_stylegan2, read
from lsap_jax.errors import ConfigError, LsapError, ResultError
from lsap_jax.generators import files
from lsap_jax.generators.base import architecture_record
from lsap_jax.networks import discriminators


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="IN", help="the checkpoint")
    parser.add_argument("output", metavar="OUT.npz", help="the file to write")
    parser.add_argument("--discriminator", action="store_true", help="convert the discriminator, not the generator")
    parser.add_argument("--source", default="", help="where the checkpoint came from, for the record")
    parser.add_argument("--licence", default="", help="licence of the weights, for the record")
    flags = parser.parse_args(argv)
    try:
        print(convert(flags.input, flags.output, flags.discriminator, flags.source, flags.licence))
    except LsapError as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


def convert(input_path: str, output_path: str, discriminator: bool, source: str, licence: str) -> str:
    """Convert one file; returns a line that says what was written.

    Raises:
      CheckpointError: if the input cannot be read, or holds no such network.
      ConfigError: if the output is not named `.npz`.
      ResultError: if the output cannot be written.
    """
    if pathlib.Path(output_path).suffix != ".npz":
        raise ConfigError(f"{output_path}: name the output .npz; its readers go by that")
    checkpoint = read.read(input_path)
    name = pathlib.Path(input_path).name
    digest = hashlib.sha256(pathlib.Path(input_path).read_bytes()).hexdigest()
    meta = {"source": source or name, "sha256": digest, "licence": licence or "not stated"}
    try:
        if discriminator:
            D = convert_stylegan2.discriminator_from_checkpoint(checkpoint, name)
            discriminators.save(output_path, D, meta)
            return f"{output_path}: {D.sizes.architecture} discriminator, {D.sizes.resolution} pixels"
        G = convert_stylegan2.generator_from_checkpoint(checkpoint, name)
        files.save(output_path, G, meta)
    except OSError as error:
        raise ResultError(f"{output_path}: cannot be written ({error.strerror or error})") from None
    architecture = architecture_record(G.arch)["architecture"]
    return (
        f"{output_path}: StyleGAN2 {architecture}, {G.resolution} pixels, {G.num_ws} rows of W+, "
        f"fingerprint {G.fingerprint}"
    )


if __name__ == "__main__":
    sys.exit(main())
