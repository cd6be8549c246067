"""Datasets: what comes out of each kind of source, and one clear error for each way in which a source can be bad."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from bdjax.errors import InvalidInput
from bdjax.io.datasets import DATASETS, dataset, decode, digits, folders, load, tfds
from bdjax.io.datasets.npz import NAMES
from bdjax.io.datasets.splits import Splits, digest


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def save(path, image: np.ndarray, mode: str | None = None, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image, mode).save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Two classes, two training images and one test image each, 8x8 RGB."""
    for row, image in enumerate(pixels(4, 8, 8, 3)):
        save(tmp_path / "animals" / "train" / ("cat", "dog")[row % 2] / f"{row}.png", image)
    for row, image in enumerate(pixels(2, 8, 8, 3)):
        save(tmp_path / "animals" / "test" / ("cat", "dog")[row] / f"{row}.png", image)
    return tmp_path / "animals"


def read(root) -> Splits:
    return folders.read_splits(root, folders.listing(root))


def arrays() -> dict[str, np.ndarray]:
    label = np.array([0, 1, 2, 0, 1, 2])
    return dict(zip(NAMES, (pixels(6, 8, 8, 3), label, pixels(3, 8, 8, 3), label[:3]), strict=True))


def refused(path, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        load(str(path), cache=path.parent)
    assert "\n" not in str(caught.value)


def test_digits():
    data = load("digits")
    assert (data.train.image.shape, data.test.image.shape) == ((1438, 16, 16, 3), (359, 16, 16, 3))
    assert data.train.image.dtype == np.uint8 and data.train.label.dtype == np.int32
    assert (data.shape, data.count, data.padding, data.flip) == ((16, 16, 3), 10, 2, False)
    assert np.bincount(data.test.label).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert data.digest == load("digits").digest == DATASETS["digits"].make().digest
    assert load("digits", flip=True).flip


def test_enlarging_is_bilinear_between_pixel_centres():
    wide = digits._enlarge(np.array([[[0, 16], [0, 16]]]))
    assert wide.shape == (1, 4, 4, 3)
    # 0, 1/4, 3/4 and 1 of 255
    np.testing.assert_array_equal(wide[0, :, :, 0], [[0, 64, 191, 255]] * 4)


def test_digest_is_of_the_content():
    splits = Splits(("0", "1", "2"), *arrays().values())
    changed = splits.train_image.copy()
    changed[0, 0, 0, 0] ^= 1
    others = [
        splits._replace(train_image=changed),
        splits._replace(classes=("0", "1", "3")),
        splits._replace(test_label=splits.test_label[::-1]),
        splits._replace(train_image=splits.train_image.reshape(6, 4, 16, 3)),
    ]
    assert len({digest(one) for one in (splits, *others)}) == 5
    assert digest(splits) == digest(splits._replace(train_label=splits.train_label.astype(np.int64)))


def test_moments_and_padding():
    image = np.zeros((2, 16, 20, 3), np.uint8)
    image[1, :, :, 0] = 255
    image[..., 1] = 51
    made = dataset(Splits(("a", "b"), image, np.array([0, 1]), image, np.array([0, 1])), "cifar10", "1")
    np.testing.assert_allclose(made.mean, [0.5, 0.2, 0])
    np.testing.assert_allclose(made.std, [0.5, 0.001, 0.001])
    assert made.padding == 2 and made.flip


def test_class_folders(root):
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "cat" / ".DS_Store").write_text("not an image")
    (root / "README.txt").write_text("beside the splits")
    data = load(str(root), cache=root.parent)
    assert (data.name, data.classes, data.shape, data.padding, data.flip) == (
        "animals",
        ("cat", "dog"),
        (8, 8, 3),
        2,
        False,
    )
    np.testing.assert_array_equal(data.train.image, pixels(4, 8, 8, 3)[[0, 2, 1, 3]])
    np.testing.assert_array_equal(data.train.label, [0, 0, 1, 1])
    np.testing.assert_array_equal(data.test.image, pixels(2, 8, 8, 3))


def test_the_image_cache(root, monkeypatch):
    cache = root.parent / "cache"
    cache.mkdir()
    first = load(str(root), cache=cache)
    (stored,) = cache.iterdir()
    decoded = []
    monkeypatch.setattr(decode, "image", lambda *given, real=decode.image: decoded.append(1) or real(*given))
    assert load(str(root), cache=cache).digest == first.digest and not decoded

    whole = stored.read_bytes()
    pixel = whole.index(first.train.image.tobytes())
    for damage in (whole[: len(whole) // 2], b"", whole[:pixel] + bytes([whole[pixel] ^ 1]) + whole[pixel + 1 :]):
        stored.write_bytes(damage)
        decoded.clear()
        assert load(str(root), cache=cache).digest == first.digest and decoded
        assert stored.read_bytes() == whole

    path = root / "train" / "cat" / "0.png"
    save(path, pixels(1, 8, 8, 3)[0])
    os.utime(path, ns=(0, 0))
    assert load(str(root), cache=cache).digest != first.digest
    assert list(cache.iterdir()) == [stored]


def test_the_cache_folder_is_the_users_alone(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "home"))
    load(str(root))
    assert (root.parent / "home" / "bdjax").stat().st_mode & 0o777 == 0o700


def test_grey_images_keep_one_channel_only_where_all_are_grey(root):
    for path in root.glob("*/*/*"):
        save(path, pixels(1, 8, 8)[0])
    assert read(root).train_image.shape == (4, 8, 8, 1)
    save(root / "test" / "dog" / "1.png", pixels(2, 8, 8, 3)[1])
    splits = read(root)
    assert splits.train_image.shape == (4, 8, 8, 3) and splits.test_image.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(splits.train_image[0], np.repeat(pixels(1, 8, 8)[0][..., None], 3, -1))
    np.testing.assert_array_equal(splits.test_image[1], pixels(2, 8, 8, 3)[1])


def test_palette_and_opaque_alpha_become_rgb(tmp_path):
    colour = pixels(1, 8, 8, 3)[0]
    save(tmp_path / "alpha.png", np.concatenate([colour, np.full((8, 8, 1), 255, np.uint8)], -1))
    Image.fromarray(colour).quantize(64).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(decode.image(tmp_path / "alpha.png"), colour)
    assert Image.open(tmp_path / "palette.png").mode == "P"
    np.testing.assert_array_equal(decode.image(tmp_path / "palette.png"), colour)


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_rotation_that_exif_notes_is_carried_out(tmp_path, ending):
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6  # the camera was held so that the picture must be turned clockwise
    upright = pixels(1, 8, 6, 3)[0]
    save(tmp_path / f"turned.{ending}", np.rot90(upright), exif=exif, lossless=True)
    np.testing.assert_array_equal(decode.image(tmp_path / f"turned.{ending}", (8, 6)), upright)


def truncated(path):
    whole = io.BytesIO()
    Image.fromarray(pixels(1, 8, 8, 3)[0]).save(whole, "JPEG")
    path.write_bytes(whole.getvalue()[:-40])


def animated(path):
    frames = [Image.fromarray(image) for image in pixels(2, 8, 8, 3)]
    frames[0].save(path, "PNG", save_all=True, append_images=frames[1:])


def transparent_palette(path):
    Image.fromarray(pixels(1, 8, 8, 3)[0]).quantize(8).save(path, "PNG", transparency=0)


def deep_colour(path):
    path.write_bytes(b"P6\n8 8\n65535\n" + bytes(8 * 8 * 3 * 2))


def enormous(path):
    path.write_bytes(b"P6\n90000 90000\n255\n")


BAD_IMAGES = {
    "truncated": (truncated, "readable image"),
    "text": (lambda path: path.write_text("cat"), "readable image"),
    "empty": (lambda path: path.write_bytes(b""), "readable image"),
    "enormous": (enormous, "pixels"),
    "16-bit grey": (lambda path: save(path, np.zeros((8, 8), np.uint16)), "more than 8 bits"),
    "16-bit colour": (deep_colour, "more than 8 bits"),
    "transparent": (lambda path: save(path, pixels(1, 8, 8, 4)[0]), "transparent"),
    "transparent palette": (transparent_palette, "transparent"),
    "cmyk": (lambda path: save(path, pixels(1, 8, 8, 4)[0], "CMYK", format="JPEG"), "mode CMYK"),
    "animated": (animated, "animation"),
    "larger": (lambda path: save(path, pixels(1, 8, 9, 3)[0]), "9x8 pixels.*8x8"),
    "same count of pixels": (lambda path: save(path, pixels(1, 4, 16, 3)[0]), "16x4 pixels.*8x8"),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter")
@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images_are_named(root, kind):
    make, message = BAD_IMAGES[kind]
    make(root / "train" / "dog" / "1.png")
    refused(root, f"train/dog/1.png.*{message}")


def test_an_image_beyond_pillows_limit(tmp_path):
    enormous(tmp_path / "bomb.png")
    with pytest.raises(InvalidInput, match="decompression bomb"):
        decode.image(tmp_path / "bomb.png")


def remove(path):
    for file in path.iterdir():
        file.unlink()


BAD_FOLDERS = {
    "empty class": (lambda root: remove(root / "train" / "dog"), "'dog' has no image in train"),
    "missing class": (lambda root: (root / "train" / "eel").mkdir(), "'eel' is in train but not in test"),
    "other file": (lambda root: (root / "train" / "cat" / "labels.csv").write_text(""), "labels.csv.*is no png"),
    "folder in a class": (lambda root: (root / "train" / "cat" / "x.png").mkdir(), "x.png' is no png"),
    "image in no class": (lambda root: save(root / "train" / "x.png", pixels(1, 8, 8)[0]), "in no class folder"),
    "pipe": (lambda root: os.mkfifo(root / "train" / "cat" / "x.png"), "x.png' is no png"),
    "link outside": (lambda root: (root / "train" / "cat" / "x.png").symlink_to("/etc/passwd"), "link out of"),
    "link to itself": (lambda root: (root / "train" / "cat" / "x.png").symlink_to("x.png"), "levels of symbolic links"),
    "linked class": (lambda root: (root / "train" / "eel").symlink_to("/etc"), "link out of"),
    "no test": (lambda root: (root / "test").rename(root / "held"), "train/<class>"),
    "line break in a name": (lambda root: (root / "train" / "cat" / "a\nb.png").write_text(""), "rename"),
}


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_bad_folders(root, kind):
    make, message = BAD_FOLDERS[kind]
    make(root)
    refused(root, message)


def test_a_link_of_a_whole_split_out_of_the_folder(root):
    (root / "test").rename(root.parent / "elsewhere")
    (root / "test").symlink_to(root.parent / "elsewhere")
    refused(root, "link out of")


def test_a_link_inside_the_folder_is_followed(root):
    (root / "test" / "cat" / "again.png").symlink_to("0.png")
    splits = read(root)
    np.testing.assert_array_equal(splits.test_image[0], splits.test_image[1])


def test_one_class(root):
    for split in ("train", "test"):
        remove(root / split / "dog")
        (root / split / "dog").rmdir()
    refused(root, "at least 2")


def test_npz(tmp_path):
    np.savez(tmp_path / "own.npz", **arrays(), unused=np.zeros(3))
    data = load(str(tmp_path / "own.npz"), flip=True)
    assert (data.name, data.classes, data.shape, data.flip) == ("own", ("0", "1", "2"), (8, 8, 3), True)
    np.testing.assert_array_equal(data.train.image, arrays()["train_image"])
    assert data.train.label.dtype == np.int32

    narrow = {name: array.astype(np.uint8) for name, array in arrays().items()}
    np.savez(tmp_path / "narrow.npz", **narrow)
    assert load(str(tmp_path / "narrow.npz")).digest == data.digest

    grey = arrays() | {"train_image": pixels(6, 8, 8), "test_image": np.asfortranarray(pixels(3, 8, 8))}
    np.savez_compressed(tmp_path / "grey.npz", **grey)
    data = load(str(tmp_path / "grey.npz"))
    assert data.shape == (8, 8, 1)
    np.testing.assert_array_equal(data.test.image[..., 0], pixels(3, 8, 8))


BAD_ARRAYS = {
    "train_image": [
        (pixels(6, 8, 8, 3).astype(object), "Python objects"),
        (np.full((6, 8, 8, 3), np.nan), "float64; give uint8"),
        (pixels(6, 8), "shape .6, 8."),
        (pixels(6, 8, 8, 4), "1 or 3 channels"),
        (pixels(6, 0, 8, 3), "1 or 3 channels"),
        (pixels(5, 8, 8, 3), "one label an image"),
        (pixels(6, 8, 9, 3), "make them the same"),
    ],
    "train_label": [
        (np.array([0, 1, 2, 0, 1, -1]), "labels from -1 to 2"),
        (np.array([0, 1, 2, 0, 1, 2**40]), f"labels from 0 to {2**40}"),
        (np.array([0, 1, 2, 0, 1, 4]), "class '3' has no image in train"),
        (np.array([0, 1, 2, 0, 1, 2.0]), "whole numbers"),
        (np.zeros((6, 1), int), "whole numbers"),
        (np.zeros(0, int), "label"),
    ],
    "test_label": [
        (np.array([0, 1, 1]), "class '2' has no image in test"),
        (np.array([0, 1, 3]), "'3' has no image in train"),
    ],
}


@pytest.mark.parametrize(
    ("name", "array", "message"), [(name, *case) for name in BAD_ARRAYS for case in BAD_ARRAYS[name]]
)
def test_bad_arrays(tmp_path, name, array, message):
    np.savez(tmp_path / "bad.npz", **arrays() | {name: array})
    refused(tmp_path / "bad.npz", message)


def declaring(path, shape) -> None:
    """An `.npz` whose first array declares more than it holds."""
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, header.getvalue() if name == "train_image.npy" else content)


@pytest.mark.parametrize("shape", [(10**9, 10**6, 32, 3), (-1, 8, 8, 3), (6, 8, 8, 3)])
def test_declared_sizes_are_checked_before_reading(tmp_path, shape):
    declaring(tmp_path / "lie.npz", shape)
    refused(tmp_path / "lie.npz", "not a whole .npz")


def test_more_than_memory_is_refused_before_reading(tmp_path, monkeypatch):
    np.savez(tmp_path / "own.npz", **arrays())
    monkeypatch.setattr(os, "sysconf", lambda name: 10)  # a machine of 100 bytes
    refused(tmp_path / "own.npz", "memory")


def test_damaged_and_missing_npz(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for damage in (whole[:-100], b"text", b"", whole[:400] + bytes([whole[400] ^ 255]) + whole[401:]):
        path.write_bytes(damage)
        refused(path, "not a whole .npz")
    np.savez(path, train_image=pixels(6, 8, 8, 3))
    refused(path, "no array 'train_label'; it holds 'train_image'")
    path.unlink()
    refused(path, "no dataset or path")


@pytest.mark.parametrize(
    "text", ["", "no such", "../etc", "/etc/passwd", "x" * 5000, "a\0b", "nothing", "nothing/at:1.0"]
)
def test_other_names_say_what_is_allowed(text):
    with pytest.raises(InvalidInput, match=r"no dataset.*train/<class>.*\.npz"):
        load(text)


def test_settings_that_a_registered_dataset_lacks():
    with pytest.raises(InvalidInput, match="no setting 'size'"):
        load("digits:size=8")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS builder of 8x8 images, prepared as array_record without tensorflow."""
    core = pytest.importorskip("tensorflow_datasets").core

    def example(row, image):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        png.seek(0)
        return row, {"image": png, "label": row % 2}

    with core.registered.skip_registration():

        class BdjaxTest(core.GeneratorBasedBuilder):
            VERSION = core.Version("1.2.3")

            def _info(self):
                image, label = core.features.Image(shape=(8, 8, 3)), core.features.ClassLabel(names=["cat", "dog"])
                return core.DatasetInfo(
                    builder=self, features=core.features.FeaturesDict({"image": image, "label": label})
                )

            def _split_generators(self, manager):
                return {"train": self._generate_examples(6), "test": self._generate_examples(4)}

            def _generate_examples(self, count):
                return (example(row, image) for row, image in enumerate(pixels(count, 8, 8, 3)))

    folder = tmp_path_factory.mktemp("tfds")
    BdjaxTest(file_format="array_record", data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def tfds_folder(prepared, monkeypatch):
    import tensorflow_datasets

    monkeypatch.setattr(
        tensorflow_datasets, "builder", lambda name, real=tensorflow_datasets.builder: real(name, data_dir=prepared)
    )


@pytest.mark.usefixtures("tfds_folder")
def test_prepared_tfds(tmp_path):
    data = load("bdjax_test", cache=tmp_path)
    assert (data.name, data.version, data.classes, data.shape) == ("bdjax_test", "1.2.3", ("cat", "dog"), (8, 8, 3))
    stored = {image.tobytes(): row % 2 for row, image in enumerate(pixels(6, 8, 8, 3))}
    assert [stored[image.tobytes()] for image in data.train.image] == data.train.label.tolist()
    assert len(data.test.label) == 4
    assert load("bdjax_test:1.2.3", cache=tmp_path).digest == data.digest


@pytest.mark.usefixtures("tfds_folder")
def test_unprepared_and_incomplete_tfds(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match=r"not prepared as array_record.*download_and_prepare"):
        load("mnist", cache=tmp_path)
    found = tfds.builder("bdjax_test")
    monkeypatch.setattr(found, "as_data_source", lambda split: range(5))
    with pytest.raises(InvalidInput, match="5 records on disk and 6 recorded"):
        tfds.read_splits(found)


@pytest.mark.usefixtures("tfds_folder")
def test_truncated_shard(prepared, tmp_path):
    (shard,) = prepared.glob("**/*test.array_record*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(InvalidInput, match="'bdjax_test', split 'test': not readable"):
            load("bdjax_test", cache=tmp_path)
    finally:
        shard.write_bytes(whole)
