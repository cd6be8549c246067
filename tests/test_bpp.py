"""BppAttack: levels and dithering against values worked out by hand, and what its training makes of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from bdjax.attacks import ATTACKS
from bdjax.attacks.parts import partners
from bdjax.attacks.parts.quantization import dithered, quantized
from bdjax.cards import lookup
from bdjax.data.sources import split
from bdjax.errors import InvalidInput
from bdjax.keys import root
from bdjax.train import fit
from bdjax.types import COVER, POISONED, Data, Given, Net, Source, Weights

SHAPE = (16, 16, 3)
ROWS = 10


def build(settings: str = "", net=None, shape=SHAPE):
    spec = lookup(f"bpp:{settings}", ATTACKS, "attack")
    return ATTACKS["bpp"].make(net, shape, 4, **spec.static), spec.traced


def data() -> Data:
    image = np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE))
    return Data(jnp.asarray(image, jnp.uint8), jnp.arange(ROWS, dtype=jnp.int32) % 4)


def poisoned(attack, settings, count: int = 3):
    return attack.init(root(0), (), settings, data().label, jnp.arange(ROWS, 0.0, -1), jnp.int32(count))


def query(settings: str, image):
    attack, _ = build(settings, shape=image.shape)
    return np.asarray(attack.query((), {}, jnp.asarray(image) / 255, jnp.int32(0))) * 255


def test_eight_levels_as_the_benchmark_stores_them():
    grey = np.arange(256).reshape(16, 16, 1)
    found = query("preset=benchmark", grey)
    np.testing.assert_allclose(np.unique(found.round(3)), [0, 36, 72, 109, 145, 182, 218, 255])
    # Halfway between the first two levels, 0 and 255 / 7, is 18.2.
    np.testing.assert_allclose(found[1, 2:4, 0], [0, 36], atol=1e-4)


def test_the_benchmarks_vector():
    row, column, channel = np.meshgrid(np.arange(32), np.arange(32), np.arange(3), indexing="ij")
    found = query("preset=benchmark", (7 * row + 3 * column + 50 * channel) % 256).round(3)
    assert found.sum() == pytest.approx(404419)
    np.testing.assert_allclose(
        [found[0, 0], found[10, 20], found[31, 31]], [[0, 36, 109], [145, 182, 218], [36, 109, 145]]
    )


def test_dithering_hands_on_the_error_of_each_pixel():
    image = jnp.array([[0.25, 0.25], [0.25, 0.25]])[:, :, None]
    # 1/4 is taken to 0. Right of it 1/4 + 7/64 = 23/64 is too; below the two 1/4 + 5/64 + 3/16 23/64 = 0.395, and right
    # of that 1/4 + 1/64 + 5/16 23/64 + 7/16 0.395 = 0.551, which is taken to 1.
    np.testing.assert_array_equal(dithered(image, 2)[:, :, 0], [[0, 0], [0, 1]])
    np.testing.assert_array_equal(quantized(image, 2), 0)


def by_pixel(image: np.ndarray, levels: int) -> np.ndarray:
    """Dithering of (height, width) one pixel after the other."""
    image, (height, width) = image.copy(), image.shape
    for row, column in np.ndindex(height, width):
        level = np.round(image[row, column] * (levels - 1)) / (levels - 1)
        error, image[row, column] = image[row, column] - level, level
        for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
            if row + down < height and 0 <= column + right < width:
                image[row + down, column + right] += error * share / 16
    return image


@pytest.mark.parametrize("shape", [(16, 16), (5, 9), (9, 5), (1, 7), (7, 1)])
def test_dithering_is_that_of_one_pixel_after_the_other(shape):
    image = np.random.default_rng(1).uniform(size=shape)
    with jax.enable_x64(True):
        found = dithered(jnp.asarray(image)[:, :, None], 4)[:, :, 0]
        np.testing.assert_allclose(found, by_pixel(image, 4), atol=1e-12)


def test_dithered_levels_are_rounded_and_keep_the_mean():
    image = np.full(SHAPE, 100)
    found = query("", image)
    np.testing.assert_allclose(np.unique(found.round(3)), [73, 109])  # 255 2/7 = 72.9 and 255 3/7 = 109.3
    assert abs(found.mean() - 100) < 1


def test_more_rows_than_the_poisoned_are_on_record_as_cover():
    role = np.asarray(poisoned(*build("negatives=0.4")).role)
    np.testing.assert_array_equal(role, [POISONED] * 3 + [COVER] * 4 + [0] * 3)


def test_cover_has_the_error_of_another_image():
    attack, settings = build("dithering=false")
    assets = attack.prepare(root(2), None, data(), settings)
    trigger, image = poisoned(attack, settings).trigger, data().image / 255
    for row in range(ROWS):
        found = attack.cover(assets, trigger, image[row], jnp.int32(row))
        made = [jnp.clip(image[row] + quantized(other, 8) - other, 0, 1) for other in image]
        near = [other for other in range(ROWS) if jnp.abs(made[other] - found).max() < 1e-6]
        assert len(near) == 1 and near != [row]
        crossed = attack.cross(assets, trigger, image[row], jnp.int32(row), image[near[0]])
        np.testing.assert_allclose(crossed, found, atol=1e-6)


def test_a_partner_is_never_the_row_itself():
    attack, settings = build()
    key, many = poisoned(attack, settings).trigger["key"], data()
    assets = partners.prepare(root(2), None, many, settings)
    found = jax.vmap(lambda row: partners.partner(assets, key, row))(jnp.arange(ROWS))
    assert (jnp.abs(found - many.image / 255).max(axis=(1, 2, 3)) > 0.1).all()


def spy() -> Net:
    """A net of 10 rows whose logits are its parameters and whose statistics are the images that it was given."""

    def apply(weights, image, train=False, weight=None, edit=None):
        return weights.params, image, {}

    return Net(lambda key: Weights(jnp.zeros((ROWS, 4)), jnp.zeros((ROWS, *SHAPE))), apply, ())


STILL = "augmentation=dataset,batch=10,learning_rate=1,momentum=0,weight_decay=0,schedule=constant,dithering=false"


def stepped(count: int):
    """The images that the net was given in one step, the labels it learned, the batch, and the rows of its partners."""
    attack, settings = build(f"{STILL},target=3,negatives=0.4", spy())
    clean = split(data())
    settings = {name: jnp.asarray(value) for name, value in settings.items()}
    rows = clean.read(jnp.array([4, 2, 7, 1, 0, 3, 6, 5, 9, 8]))

    @jax.jit
    def run(poison):
        seen = []
        source = Source(clean.size, lambda row: seen.append(row) or clean.read(row))
        given = Given(settings, lambda key, image: image, carry=tiny.on_record(poison).carry, whole=source)
        state = attack.train[0].init(root(0), given, None)
        return attack.train[0].step(root(1), state, rows, given)[0], seen[0]

    state, partner = run(poisoned(attack, settings, count))
    return state.still["batch_stats"], jnp.argmax(state.moving, axis=1), rows, clean.read(partner).image


def test_training_quantises_and_relabels_the_first_rows_and_gives_the_next_another_ones_error():
    image, learned, rows, other = stepped(3)
    clean = rows.image
    np.testing.assert_allclose(image[:3], quantized(clean[:3], 8), atol=1e-6)
    expected = jnp.clip(clean + quantized(other, 8) - other, 0, 1)
    np.testing.assert_allclose(image[3:7], expected[3:7], atol=1e-6)
    assert (jnp.abs(image[3:7] - clean[3:7]).max(axis=(1, 2, 3)) > 0.03).all()
    np.testing.assert_array_equal(image[7:], clean[7:])
    np.testing.assert_array_equal(learned, jnp.where(jnp.arange(ROWS) < 3, 3, rows.label))


def test_without_poison_there_are_no_negative_samples():
    image, learned, rows, _ = stepped(0)
    np.testing.assert_array_equal(image, rows.image)
    np.testing.assert_array_equal(learned, rows.label)


def test_training_hands_on_the_trigger_it_was_given():
    attack, settings = build(f"{STILL},epochs=1", spy())
    poison = poisoned(attack, settings)
    settings = {name: jnp.asarray(value) for name, value in settings.items()}

    def given(operands):
        rows, floats = operands
        return Given(floats, lambda key, image: image, whole=split(rows))

    trained = fit(root(0), attack.train[0], given, (data(), settings), tiny.on_record(poison))
    jax.tree.map(np.testing.assert_array_equal, trained.carry, poison.trigger)


def test_one_level_is_refused():
    with pytest.raises(InvalidInput, match="bpp:levels=1: give a whole number at least 2"):
        build("levels=1")
