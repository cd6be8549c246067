"""SSBA: the encoder's images, the decoder's logits and the gradients of the loss of both.

Li et al., ICCV 2021; the networks are those of the benchmark's `resource/ssba/models.py`. Its training is a script that
wants a graphics card; its loss, two lines of it, is stated here again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bdjax.attacks.fitting import steganography
from bdjax.attacks.fitting.steganography import Pace, lesson
from bdjax.models.auxiliary.steganography import coder
from experiments.fidelity import common

BITS, WIDTH, SIZE, FIDELITY = 100, 32, 32, 10.0
ENCODER = {"secret": "secret_dense", "last": "conv10", "output": "residual"}
ENCODER |= {f"down{number}": f"conv{number + 1}" for number in range(5)}
ENCODER |= {f"rise{number}": f"up{9 - number}" for number in range(4)}
ENCODER |= {f"up{number}": f"conv{9 - number}" for number in range(4)}
DECODER = {f"conv{number}": f"decoder.{2 * number}" for number in range(7)} | {"dense": "dense.0", "logits": "dense.2"}


def arranged(weight: np.ndarray, bias: np.ndarray, before=(), after=()) -> dict:
    """A layer of theirs as ours; before, after: (channels, height, width) of maps that it flattens or makes."""
    if weight.ndim == 4:
        return {"kernel": weight.transpose(2, 3, 1, 0), "bias": bias}
    kernel = weight.T
    if before:
        kernel = kernel.reshape(*before, -1).transpose(1, 2, 0, 3).reshape(kernel.shape)
    if after:
        kernel = kernel.reshape(-1, *after).transpose(0, 2, 3, 1).reshape(kernel.shape)
        bias = bias.reshape(after).transpose(1, 2, 0).reshape(-1)
    return {"kernel": kernel, "bias": bias}


def taken(module, names: dict[str, str], gradient: bool, maps: dict[str, dict] | None = None) -> dict:
    """The weights of `module`, or their gradients, under our `names`; maps: name -> what `arranged` must know of it."""
    values = dict(module.named_parameters())
    values = {name: (value.grad if gradient else value).detach().numpy() for name, value in values.items()}
    pairs = {ours: [values[f"{theirs}.{part}"] for part in ("weight", "bias")] for ours, theirs in names.items()}
    return {ours: arranged(*pair, **(maps or {}).get(ours, {})) for ours, pair in pairs.items()}


def drawn(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, and for each the bits that `lesson` draws under the key of these comparisons."""
    image = common.batch(4, SIZE)[0]
    return image, np.array(steganography.drawn(jax.random.key(0), len(image), bits))


def differences(made, hidden, logits, params: dict, gradients: dict, bits: int) -> dict[str, float]:
    """Our images, logits and gradients on the same batch beside theirs."""
    image, secret = map(jnp.asarray, drawn(bits))
    ours = made.hide(params["encoder"], image, secret)
    read = made.read(params["decoder"], jnp.clip(ours, 0, 1))
    gradient = lesson(made, bits, Pace(-1, 1.0, 0, 1))
    settings, memory = {"fidelity": jnp.array(FIDELITY)}, {"started": jnp.int32(-1)}
    found, _ = gradient(jax.random.key(0), params, memory, image, settings, jnp.int32(0))
    parts = {f"gradients of the {name}": common.relative(found[name], gradients[name]) for name in found}
    change = common.relative(ours - image, np.asarray(hidden.detach()).transpose(0, 2, 3, 1) - image)
    return {"change of the image": change, "logits": common.relative(read, logits.detach().numpy())} | parts


def loss(hidden, image, logits, secret):
    """Theirs: cross-entropy of the bits and the weighted mean squared change."""
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, secret)
    return FIDELITY * torch.nn.functional.mse_loss(hidden, image) + entropy


def compare(folder) -> dict[str, float]:
    """Relative differences of one step of the benchmark's full-size networks."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    code = common.module(folder / "resource" / "ssba", "models.py")
    encoder, decoder = code.StegaStampEncoder(SIZE, 3, BITS), code.StegaStampDecoder(SIZE, 3, BITS)
    image, secret = drawn(BITS)
    image, secret = common.to_torch(image), torch.tensor(secret)
    hidden = encoder(secret, image)
    logits = decoder(hidden)
    loss(hidden, image, logits, secret).backward()
    params, gradients = (
        {
            "encoder": taken(encoder, ENCODER, gradient, {"secret": {"after": (3, 16, 16)}}),
            "decoder": taken(decoder, DECODER, gradient),
        }
        for gradient in (False, True)
    )
    made = coder((SIZE, SIZE, 3), BITS, WIDTH, "image")
    return differences(made, hidden, logits, jax.tree.map(jnp.asarray, params), gradients, BITS)


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e353",
    compare,
    ("Weights begin as PyTorch draws them, here in both; ours begin as StegaStamp's own code has it.",),
)
