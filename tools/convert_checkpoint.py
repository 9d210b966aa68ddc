"""Convert a published checkpoint to one self-describing `.npz`, for `lj.load_generator` or `lj.load_encoder`.

    python tools/convert_checkpoint.py IN OUT.npz [--discriminator | --encoder] [--source TEXT] [--licence TEXT]

IN is an NVIDIA network pickle, or a PyTorch file of rosinality's code, pSp, e4e, LSAP, ReStyle, GANInverter, IDInvert
or latent-composition; it is recognised by its contents, and nothing in it is executed. The generator is taken, or, from
a file that has no generator, the encoder; with --discriminator or --encoder that one. A generator's mean of w that the
file lacks is computed from 100,000 samples (some seconds).
"""

import argparse
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from lsap_jax import pretrained
from lsap_jax.checkpoints import convert_encoders, convert_stylegan2, read
from lsap_jax.embed import encode
from lsap_jax.errors import ConfigError, LsapError, ResultError
from lsap_jax.generators import files
from lsap_jax.generators.base import architecture_record
from lsap_jax.networks import discriminators, encoder_files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="IN", help="the checkpoint")
    parser.add_argument("output", metavar="OUT.npz", help="the file to write")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--discriminator", action="store_true", help="convert the discriminator, not the generator")
    part.add_argument("--encoder", action="store_true", help="convert the encoder, not the generator")
    parser.add_argument("--head", choices=("psp", "e4e"), help="what an encoder is, where its file does not say")
    parser.add_argument("--generator", help="whose codes an encoder makes: a name or path; recorded in the output")
    parser.add_argument("--float16", action="store_true", help="store an encoder's weights in half the space")
    parser.add_argument("--source", default="", help="where the checkpoint came from, for the record")
    parser.add_argument("--licence", default="", help="licence of the weights, for the record")
    flags = parser.parse_args(argv)
    try:
        print(convert(flags))
    except LsapError as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


def convert(flags: argparse.Namespace) -> str:
    """Convert one file; returns a line that says what was written.

    Raises:
      CheckpointError: if the input cannot be read, or holds no such network.
      ConfigError: if the output is not named `.npz`.
      ResultError: if the output cannot be written.
    """
    path, output = pathlib.Path(flags.input), flags.output
    if pathlib.Path(output).suffix != ".npz":
        raise ConfigError(f"{output}: name the output .npz; its readers go by that")
    checkpoint = read.read(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    meta = {"source": flags.source or path.name, "sha256": digest, "licence": flags.licence or "not stated"}
    try:
        if flags.encoder or (not flags.discriminator and convert_encoders.holds_encoder_alone(checkpoint)):
            return _convert_encoder(checkpoint, flags, meta)
        if flags.discriminator:
            D = convert_stylegan2.discriminator_from_checkpoint(checkpoint, path.name)
            discriminators.save(output, D, meta)
            return f"{output}: {D.sizes.architecture} discriminator, {D.sizes.resolution} pixels"
        G = convert_stylegan2.generator_from_checkpoint(checkpoint, path.name)
        files.save(output, G, meta)
    except OSError as error:
        raise ResultError(f"{output}: cannot be written ({error.strerror or error})") from None
    architecture = architecture_record(G.arch)["architecture"]
    return (
        f"{output}: StyleGAN2 {architecture}, {G.resolution} pixels, {G.num_ws} rows of W+, fingerprint {G.fingerprint}"
    )


def _convert_encoder(checkpoint: Any, flags: argparse.Namespace, meta: dict[str, Any]) -> str:
    G = pretrained.load_generator(flags.generator) if flags.generator else None
    E = convert_encoders.encoder_from_checkpoint(
        checkpoint,
        pathlib.Path(flags.input).name,
        flags.head,
        None if G is None else np.asarray(G.w_avg),
        None if G is None else G.num_ws,
    )
    if G is not None:
        encode.check_fits(E, G)
        E = E.replace(generator=G.fingerprint)
    encoder_files.save(flags.output, E, meta, np.float16 if flags.float16 else np.float32)
    arch = E.arch
    return (
        f"{flags.output}: encoder {arch.trunk} with head {arch.head}, input {arch.input} of {arch.resolution} pixels, "
        f"{arch.num_ws} rows of W+"
    )


if __name__ == "__main__":
    sys.exit(main())
