"""StyleGAN2 config-f: our forward and gradient to W+ against nothing but its convolutions, and against PyTorch.

    python benchmarks/stylegan2_vs_convolutions.py [--cases 1024x1 256x1 256x4] [--repeats 5] [--reuse_memory]
    python benchmarks/stylegan2_vs_convolutions.py --cases 1024x1 --rival FOLDER

The floor is a chain of the same 3x3 convolutions on the same shapes in one jitted function, upsampling ones as
transposed convolutions of stride 2: no modulation, filter, noise, activation or pictures. It is built in both forms
that XLA offers (an input dilated by zeros; four phases and an interleave), the faster one counts. Its gradient is that
to its input, through every layer.

All take turns in one run; "cpu" is processor time of all threads, the steadiest figure on a machine that others use.
FOLDER holds the source of rosinality/stylegan2-pytorch or NVlabs/stylegan2-ada-pytorch, which is run by PyTorch with
random weights on as many threads; its ops for CUDA are left out. --reuse_memory has glibc keep freed memory rather than
return it to the kernel at every step, for all of them; much of the time of large feature maps goes there.
"""

import argparse
import ctypes
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax
from timing import emit, interleave, machine, peak_memory

from lsap_jax.generators import ops, stylegan2

WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}


@jax.jit
def forward(G, ws):
    return G.synthesize(ws)


@jax.jit
def gradient(G, ws, cotangent):
    """Image and gradient to W+ of a loss whose gradient to the image is `cotangent`."""
    image, pull = jax.vjp(G.synthesize, ws)
    return image, pull(cotangent)


def dilated(x, kernel):
    """(B, H, W, I) -> (B, 2H, 2W, O): transposed convolution as one over an input with zeros between samples."""
    padding = ((2, 1), (2, 1))
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=ops.DIMENSIONS)


def phases(x, kernel):
    """The same in four phases, interleaved."""
    kept, padding = (slice(None, None, 2), slice(1, 2)), ((1, 0), (0, 0))
    cells = [
        [ops.padded_conv(x, kernel[kept[a], kept[b]], 1, (padding[a], padding[b])) for b in (0, 1)] for a in (0, 1)
    ]
    return ops.interleave([ops.interleave(row, 2) for row in cells], 1)


def chain(upsample):
    """The bare convolutions: (forward, forward and gradient to the input), jitted."""

    def run(x, kernels):
        for i, kernel in enumerate(kernels):
            x = upsample(x, kernel) if i % 2 else ops.conv(x, kernel)
        return x

    def run_and_pull(x, kernels, cotangent):
        y, pull = jax.vjp(lambda x: run(x, kernels), x)
        return y, pull(cotangent)

    return jax.jit(run), jax.jit(run_and_pull)


def ours(resolution, batch, repeats):
    """Times of one case, and a record of compile time and memory."""
    channels = tuple((r, c) for r, c in WIDTHS.items() if r <= resolution)
    G = stylegan2.init(jax.random.key(0), stylegan2.StyleGAN2(resolution, channels))
    ws = jax.random.normal(jax.random.key(1), (batch, G.num_ws, G.w_dim))
    cotangent = jnp.ones((batch, resolution, resolution, 3)) / resolution**2
    x = jnp.ones((batch, 4, 4, WIDTHS[4]))
    own = [layer for layer in G.arch.layers if layer.name != "torgb"]
    kernels = [G.params["synthesis"][block][name]["weight"] / 70 for block, name, _ in own]
    back = jnp.ones((batch, resolution, resolution, WIDTHS[resolution]))
    record = {}
    for name, function, args in (("forward", forward, (G, ws)), ("gradient", gradient, (G, ws, cotangent))):
        start = time.perf_counter()
        planned = function.lower(*args).compile().memory_analysis()
        record[name] = {
            "compile_s": time.perf_counter() - start,
            "buffers_gib": planned.temp_size_in_bytes / 2**30,
        }
    (chain_a, pulled_a), (chain_b, pulled_b) = chain(dilated), chain(phases)
    fns = {
        "convolutions, dilated": lambda: chain_a(x, kernels),
        "convolutions, phases": lambda: chain_b(x, kernels),
        "forward": lambda: forward(G, ws),
        "convolutions and gradients, dilated": lambda: pulled_a(x, kernels, back),
        "convolutions and gradients, phases": lambda: pulled_b(x, kernels, back),
        "forward and gradient": lambda: gradient(G, ws, cotangent),
    }
    times = interleave(fns, repeats)
    ratios = {
        "forward / convolutions": against(times, "forward", "convolutions"),
        "gradient / convolutions": against(times, "forward and gradient", "convolutions and gradients"),
    }
    return fns, {"seconds": times, "ratios": ratios, "programs": record}


def against(times, name, floor):
    """Ratio to the faster form of the floor, figure by figure."""
    forms = [times[f"{floor}, {form}"] for form in ("dilated", "phases")]
    return {k: v / min(form[k] for form in forms) for k, v in times[name].items()}


def rival(folder, resolution, batch):
    """{name: timed call} of a PyTorch implementation read from its source folder."""
    import torch
    import torch.utils.cpp_extension

    torch.utils.cpp_extension.load = lambda *args, **kwargs: None  # its CUDA ops, built on import
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    sys.path.insert(0, str(folder))
    ws = torch.randn(batch, 2 * (resolution.bit_length() - 2), 512)
    if (folder / "training" / "networks.py").exists():
        from training import networks

        options = {"channel_base": 32768, "channel_max": 512, "num_fp16_res": 0}
        net = networks.Generator(512, 0, 512, resolution, 3, synthesis_kwargs=options).eval().requires_grad_(False)

        def render(ws):
            return net.synthesis(ws, noise_mode="const")
    else:
        import model

        net = model.Generator(resolution, 512, 8).eval().requires_grad_(False)

        def render(ws):
            return net([ws], input_is_latent=True, randomize_noise=False)[0]

    def run():
        with torch.no_grad():
            return render(ws).shape

    def run_and_pull():
        leaf = ws.clone().requires_grad_(True)
        render(leaf).sum().backward()
        return leaf.grad.shape

    return {"rival forward": run, "rival forward and gradient": run_and_pull}


def keep_freed_memory():
    """Have glibc serve large arrays from memory it keeps; True if it agreed."""
    try:
        option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    trim_threshold, mmap_threshold, arenas = -1, -3, -8
    return all((option(mmap_threshold, 2**31 - 1), option(trim_threshold, -1), option(arenas, 1)))


def main():
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["1024x1", "256x1", "256x4"], help="RESOLUTIONxBATCH")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rival", type=pathlib.Path, help="source folder of a PyTorch implementation")
    parser.add_argument("--reuse_memory", action="store_true", help="keep freed memory (glibc)")
    flags = parser.parse_args()
    kept = keep_freed_memory() if flags.reuse_memory else False
    for case in flags.cases:
        resolution, batch = map(int, case.split("x"))
        fns, record = ours(resolution, batch, flags.repeats)
        emit({"benchmark": "stylegan2 vs convolutions", "case": case, "reuse_memory": kept, **record, **machine()})
        if flags.rival:
            times = interleave(
                {
                    **rival(flags.rival, resolution, batch),
                    "forward": fns["forward"],
                    "forward and gradient": fns["forward and gradient"],
                },
                flags.repeats,
            )
            ratios = {
                f"rival {name} / ours": {k: v / times[name][k] for k, v in times[f"rival {name}"].items()}
                for name in ("forward", "forward and gradient")
            }
            record = {
                "benchmark": "stylegan2 vs PyTorch",
                "case": case,
                "rival": flags.rival.name,
                "reuse_memory": kept,
            }
            emit({**record, "seconds": times, "ratios": ratios, "peak_gib": peak_memory(), **machine(["torch"])})


if __name__ == "__main__":
    main()
