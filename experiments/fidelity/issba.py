"""ISSBA: what the encoder adds, the decoder's logits through its spatial transformer, and the gradients of the loss.

Li et al., ICCV 2021; the networks are those of BackdoorBox's `core/attacks/ISSBA.py`, of which only they are run. The
loss here is the part that needs no network trained elsewhere: cross-entropy of the bits and mean squared change.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bdjax.models.auxiliary.steganography import coder
from experiments.fidelity import common, ssba

BITS = 20
ENCODER = {ours: f"{theirs}.0.conv" for ours, theirs in ssba.ENCODER.items() if ours not in ("last", "secret")}
ENCODER |= {"secret": "secret_dense.0"}
DECODER = {f"conv{number}": f"decoder.{2 * number}.conv" for number in range(7)}
DECODER |= {"dense": "decoder_later.0", "logits": "decoder_later.2"}
TRANSFORMER = {f"conv{number}": f"stn_params_former.{2 * number}.conv" for number in range(3)}
TRANSFORMER |= {"dense": "stn_params_later.0"}


def networks(folder) -> dict:
    """The names that the classes of networks in their file define."""
    text = (folder / "core" / "attacks" / "ISSBA.py").read_text()
    names = {"nn": torch.nn, "torch": torch, "F": torch.nn.functional, "np": np}
    names |= {"_pair": lambda value: tuple(itertools.repeat(value, 2))}
    exec(text[text.index("class Conv2dSame") : text.index("class Discriminator")], names)
    return names


def taken(encoder, decoder, gradient: bool) -> dict:
    """Weights of both networks, or their gradients, as ours."""
    read = ssba.taken(decoder, DECODER, gradient)
    read["straightened"] = ssba.taken(decoder, TRANSFORMER, gradient, {"dense": {"before": (128, 4, 4)}})
    for name, value in (("kernel", decoder.W_fc1), ("bias", decoder.b_fc1)):
        read["straightened"][name] = (value.grad if gradient else value).detach().numpy()
    hide = ssba.taken(encoder, ENCODER, gradient, {"secret": {"after": (3, ssba.SIZE, ssba.SIZE)}})
    return {"encoder": hide, "decoder": read}


def compare(folder) -> dict[str, float]:
    """Relative differences of one step of BackdoorBox's full-size networks."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    code = networks(folder)
    encoder = code["StegaStampEncoder"](BITS, ssba.SIZE, ssba.SIZE, 3)
    decoder = code["StegaStampDecoder"](BITS, ssba.SIZE, ssba.SIZE, 3).double()
    torch.nn.init.normal_(decoder.W_fc1, std=0.01)  # so that the transformer does something
    image, secret = ssba.drawn(BITS)
    image, secret = common.to_torch(image), torch.tensor(secret)
    hidden = image + encoder([secret, image])
    logits = decoder(hidden.clamp(0, 1))
    ssba.loss(hidden, image, logits, secret).backward()
    params, gradients = (taken(encoder, decoder, gradient) for gradient in (False, True))
    made = coder((ssba.SIZE, ssba.SIZE, 3), BITS, ssba.WIDTH, "change")
    return ssba.differences(made, hidden, logits, jax.tree.map(jnp.asarray, params), gradients, BITS)


COMPARISON = common.Comparison(
    "THUYimingLi/BackdoorBox",
    "af3afd1",
    compare,
    (
        "Their perceptual distance and their untrained critic's opinion are left out of the loss.",
        "Weights begin as PyTorch draws them, here in both; ours begin as StegaStamp's own code has it.",
    ),
)
