"""ISSBA: StegaStamp's spatial transformer and change, and the schedule of its loss."""

import jax
import jax.numpy as jnp
import numpy as np

from bdjax.attacks import ATTACKS
from bdjax.attacks.fitting.steganography import Pace, lesson
from bdjax.cards import lookup
from bdjax.keys import root
from bdjax.models.auxiliary.steganography import Straightened, coder, mapped
from bdjax.models.parts.pure import pure
from bdjax.types import Data


def test_full_size_has_as_many_parameters_as_backdoorboxs_networks():
    params = jax.eval_shape(coder((32, 32, 3), 20, 32, "change").init, root(0))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()}
    assert sizes == {"encoder": 1_047_011, "decoder": 756_538}


def test_transformer_leaves_the_image_alone_at_first():
    image = jax.random.uniform(root(0), (2, 16, 20, 3))
    network = pure(Straightened(2), (16, 20, 3))
    np.testing.assert_allclose(jax.jit(network.apply)(network.init(root(1)), image), image, atol=1e-5)


def test_mirrored_map_mirrors_the_image():
    image = jnp.arange(12.0).reshape(3, 4, 1)
    mirrored = mapped(image, jnp.array([[-1.0, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(mirrored, image[:, ::-1], atol=1e-5)


def test_shift_by_half_the_width_reads_from_the_right_and_zero_beyond():
    image = jnp.arange(1.0, 5).reshape(1, 4, 1)
    shifted = mapped(image, jnp.array([[1.0, 0, 1], [0, 1, 0]]))
    np.testing.assert_allclose(shifted[0, :, 0], [3, 4, 0, 0], atol=1e-5)


def test_what_the_encoder_gives_is_added_to_the_image():
    parts = coder((16, 16, 3), 4, 2, "change")
    params = jax.jit(parts.init)(root(0))
    params["encoder"]["output"] = jax.tree.map(jnp.zeros_like, params["encoder"]["output"])
    image = jax.random.uniform(root(1), (2, 16, 16, 3))
    np.testing.assert_array_equal(jax.jit(parts.hide)(params["encoder"], image, jnp.ones((2, 4))), image)


def test_fidelity_counts_in_full_from_its_step_on():
    pace = Pace(start=150 - 1, accuracy=1.0, hold=0, ramp=1)
    shares = pace.share(jnp.int32(149), jnp.array([0, 149, 150, 151]))
    np.testing.assert_array_equal(shares, [0, 0, 1, 1])


def test_start_does_not_move_however_well_bits_are_read():
    parts, pace = coder((16, 16, 3), 1, 1, "change"), Pace(7, accuracy=1.0, hold=0, ramp=1)
    gradient, params = jax.jit(lesson(parts, 1, pace)), jax.jit(parts.init)(root(0))
    image, settings = jnp.zeros((2, 16, 16, 3)), {"fidelity": jnp.array(1.0)}
    for seed in range(8):  # of two bits all are read right in some of these
        memory = gradient(root(seed), params, {"started": jnp.int32(7)}, image, settings, jnp.int32(0))[1]
        assert memory["started"] == 7


def test_assets_of_images_of_one_channel():
    spec = lookup("issba:bits=3,width=2,encoder_steps=2,encoder_batch=2", ATTACKS, "attack")
    attack = ATTACKS["issba"].make(None, (16, 16, 1), 2, **spec.static)
    image = jnp.arange(4 * 256, dtype=jnp.uint8).reshape(4, 16, 16, 1)
    assets = attack.prepare(root(0), None, Data(image, jnp.arange(4, dtype=jnp.int32) % 2), spec.traced)
    assert assets["hidden"].shape == image.shape and assets["secret"].shape == (3,)
    assert sorted(assets["figures"]) == ["bit_accuracy", "psnr"]
