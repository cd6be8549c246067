"""`bdjax purify`: a checkpoint and folders of images in, a table, a page and the same checkpoint purified out."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file, save_file

import bdjax
from bdjax import cli
from bdjax.errors import InvalidInput
from bdjax.io.foreign import model_folder
from bdjax.io.foreign.torch_weights import to_torch
from bdjax.models import MODELS

CLASSES = ("high", "low", "middle")
MODEL, MEAN, STD = "preact_resnet18:width=4", (0.3,) * 3, (0.2,) * 3
NORMAL, FT = "0.3/0.2", "ft:epochs=1,batch=8,learning_rate=1e-4"
NET = MODELS["preact_resnet18"].make((16, 16, 3), 3, MEAN, STD, width=4)


def colored(each, seed):
    """Bands of `tiny`, which features that are pooled do not tell apart, each class in a color of its own."""
    image, label = tiny.images(each, seed)
    image[np.arange(len(label)), ..., label] = 250
    return image, label


def write(folder, each, seed, change=lambda image: image, skip=()):
    """Class folders of the bands; classes 0, 1, 2 are `high`, `low`, `middle`."""
    image, label = colored(each, seed)
    for number, (one, which) in enumerate(zip(change(image), label, strict=True)):
        if which not in skip:
            (folder / CLASSES[which]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(one).save(folder / CLASSES[which] / f"{number}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, and a network whose last layer is fitted to its own features, under PyTorch's names."""
    folder = tmp_path_factory.mktemp("purify")
    write(folder / "clean", 12, 5)
    write(folder / "test", 8, 6)
    write(folder / "triggered", 8, 7, tiny.stamped, skip=(0,))
    weights = NET.init(jax.random.key(0))
    image, label = colored(60, 0)
    learn = jax.jit(lambda weights, image: weights.replace(batch_stats=NET.apply(weights, image, train=True)[1]))
    for _ in range(40):  # so that statistics are those of its images, as training would leave them
        weights = learn(weights, jnp.asarray(image) / 255)
    feature = np.asarray(NET.apply(weights, jnp.asarray(image) / 255)[2][NET.layers[-2].tap]).reshape(len(label), -1)
    wide = np.concatenate([feature, np.ones((len(label), 1))], 1)
    fitted = np.linalg.lstsq(wide, 4 * np.eye(3)[label], rcond=None)[0].astype(np.float32)
    params = weights.params | {"linear": {"kernel": jnp.asarray(fitted[:-1]), "bias": jnp.asarray(fitted[-1])}}
    state = to_torch(weights.replace(params=params), NET)
    save_file({f"module.{name}": value for name, value in state.items()}, folder / "model.safetensors")
    (folder / "names.txt").write_text("\n".join(CLASSES))
    return folder


def call(folder, *options, out="out", weights="model.safetensors", model=MODEL, clean="clean", normal=NORMAL):
    """The arguments of the command with these options."""
    given = ["purify", str(folder / weights), "--clean", str(folder / clean), "--out", str(out), *map(str, options)]
    given += ["--model", model] if model else []
    return given + (["--normalization", normal] if normal else [])


@pytest.fixture(scope="module")
def purified(folder, tmp_path_factory):
    """All that the command is given and that it writes: ft keeps the network, refine puts another before it."""
    out = tmp_path_factory.mktemp("out")
    extra = ["--test", folder / "test", "--triggered", folder / "triggered", "--target", "high"]
    defenses = ["--defenses", FT, "refine:width=2,halvings=2,epochs=1,batch=8"]
    assert cli.main(call(folder, *extra, *defenses, out=out)) == 0
    return out


def test_a_checkpoint_comes_back_under_its_own_names(folder, purified):
    """Every tensor has the name, shape and type that it had, and the config says what the weights are of."""
    place = next((purified / "purified").glob("ft*"))
    before = {name.removeprefix("module."): value for name, value in load_file(folder / "model.safetensors").items()}
    net, weights, config = model_folder.read(place)
    after = to_torch(weights, net, before)
    assert {name: value.shape for name, value in after.items()} == {name: one.shape for name, one in before.items()}
    assert config["architecture"] == MODEL and config["classes"] == list(CLASSES)
    np.testing.assert_allclose(config["mean"] + config["std"], MEAN + STD)
    assert set(config["figures"]) == {"acc", "asr", "ra", "valid_acc", "moved", "seconds", "n"}
    assert any(not np.array_equal(after[name], before[name]) for name in before)
    assert (purified / "report.html").exists()


def test_a_second_call_trains_nothing(folder, purified, capsys):
    before = tiny.files(purified, "models", "results")
    extra = ["--test", folder / "test", "--triggered", folder / "triggered", "--target", "high"]
    assert cli.main(call(folder, *extra, "--defenses", FT, out=purified)) == 0
    assert tiny.files(purified, "models", "results") == before
    assert FT in capsys.readouterr().out


def test_a_changed_network_says_that_it_has_no_form_in_pytorch(purified):
    place = next((purified / "purified").glob("refine*"))
    net, _, config = model_folder.read(place)
    assert config["names"] == "bdjax" and net.plain is not None and not (place / "model.pt").exists()


def test_pytorch_evaluates_what_comes_back(folder, purified):
    """The returned weights in a plain PyTorch module give the same logits."""
    torch = pytest.importorskip("torch")
    from bdjax.bench.torch_networks import network

    place = next((purified / "purified").glob("ft*"))
    theirs = network("preact_resnet18", 4, 3).eval()
    theirs.load_state_dict(torch.load(place / "model.pt", weights_only=True), strict=True)
    image = tiny.images(5, 9)[0] / np.float32(255)
    with torch.no_grad():
        logits = theirs(torch.from_numpy((image - 0.3) / np.float32(0.2)).permute(0, 3, 1, 2)).numpy()
    net, weights, _ = model_folder.read(place)
    np.testing.assert_allclose(net.apply(weights, jnp.asarray(image))[0], logits, rtol=1e-5, atol=1e-5)


def test_what_is_told(folder, tmp_path, capsys):
    """Few images and no trigger: which class is absent, what logits look like, and what nobody knows."""
    write(tmp_path / "clean", 12, 5, skip=(1,))
    given = call(folder, "--defenses", "ft:epochs=1,batch=8", "--classes", folder / "names.txt", out=tmp_path / "out")
    given[given.index("--clean") + 1] = str(tmp_path / "clean")
    assert cli.main(given) == 0
    told = capsys.readouterr().out
    assert "No clean image of low" in told and "nobody knows from this whether there is a backdoor" in told
    row = next(line for line in told.splitlines() if line.startswith("as it was given"))
    assert row.split()[4] == "–" and row.split()[6] == "–"  # ACC and ASR


def test_a_model_folder_says_its_network_itself(folder, purified, tmp_path, capsys):
    place = next((purified / "purified").glob("ft*"))
    shutil.copytree(place, tmp_path / "model")
    given = ["purify", str(tmp_path / "model"), "--clean", str(folder / "clean"), "--out", str(tmp_path / "out")]
    assert cli.main([*given, "--defenses", "ft:epochs=1,batch=8"]) == 0
    assert MODEL in capsys.readouterr().out


def changed(folder, tmp, change):
    """A copy of the state_dict, changed."""
    state = dict(load_file(folder / "model.safetensors"))
    change(state)
    save_file(state, tmp / "changed.safetensors")
    return {"weights": tmp / "changed.safetensors"}


def moved(folder, tmp, name, change):
    """A copy of a folder of images, changed."""
    shutil.copytree(folder / name, tmp / name)
    change(tmp / name)
    return tmp / name


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def turned(state):
    """The model with its classes in another order."""
    for name in ("module.linear.weight", "module.linear.bias"):
        state[name] = np.ascontiguousarray(state[name][[2, 0, 1]])


def half(folder, tmp):
    shutil.copy(folder / "model.safetensors", tmp / "half.safetensors")
    cut(tmp / "half.safetensors")
    return {"weights": tmp / "half.safetensors"}


def text(tmp, content, name="names.txt"):
    (tmp / name).write_bytes(content)
    return tmp / name


WRONG = {
    "no file": (lambda f, t: {"weights": "nowhere.safetensors"}, "no such file"),
    "no torch file": (lambda f, t: {"weights": text(t, b"x", "a.pt")}, "a.pt"),
    "cut": (half, "not a whole safetensors file"),
    "no weights": (
        lambda f, t: changed(f, t, lambda s: (s.clear(), s.update(a=np.zeros(1, np.float32)))),
        "lacks|has no",
    ),
    "missing tensor": (lambda f, t: changed(f, t, lambda s: s.pop("module.conv1.weight")), "has no 'conv1.weight'"),
    "seed below 0": (lambda f, t: {"options": ("--seeds", "-1:0")}, "seed -1; give whole numbers"),
    "more tensors": (lambda f, t: changed(f, t, lambda s: s.update({"module.x": np.zeros(2, np.float32)})), "has 'x'"),
    "whole numbers": (
        lambda f, t: changed(f, t, lambda s: s.update({"module.linear.bias": np.zeros(3, np.int32)})),
        "floating-point",
    ),
    "nan": (
        lambda f, t: changed(f, t, lambda s: s.update({"module.conv1.weight": s["module.conv1.weight"] * np.nan})),
        "chance|not finite",
    ),
    "other classes": (
        lambda f, t: changed(
            f,
            t,
            lambda s: s.update(
                {f"module.linear.{n}": np.concatenate([s[f"module.linear.{n}"]] * 2) for n in ("weight", "bias")}
            ),
        ),
        "3 class folders and a model of 6 classes",
    ),
    "order of classes": (lambda f, t: changed(f, t, turned), "in another order; give --classes"),
    "no model": (lambda f, t: {"model": None}, "give --model"),
    "unknown model": (lambda f, t: {"model": "resnet"}, "no model 'resnet'"),
    "other width": (lambda f, t: {"model": "preact_resnet18:width=8"}, "has shape"),
    "other model": (lambda f, t: {"model": "small_cnn"}, "the state_dict has no"),
    "no normalization": (lambda f, t: {"normal": None}, "right on so many clean images with: .*give --normalization"),
    "wrong normalization": (lambda f, t: {"normal": "9/0.1"}, "which is chance.*give --normalization"),
    "bad normalization": (lambda f, t: {"normal": "0.3"}, "write MEAN/STD"),
    "no clean folder": (lambda f, t: {"clean": "nothing"}, "No such file"),
    "empty clean folder": (
        lambda f, t: {"clean": moved(f, t, "clean", lambda p: [shutil.rmtree(c) for c in p.iterdir()])},
        "empty",
    ),
    "images in no class": (
        lambda f, t: {"clean": moved(f, t, "clean", lambda p: shutil.copy(p / "low/1.png", p / "x.png"))},
        "in no class folder",
    ),
    "another file": (
        lambda f, t: {"clean": moved(f, t, "clean", lambda p: (p / "low/x.txt").write_text(""))},
        "move it away",
    ),
    "damaged image": (
        lambda f, t: {"clean": moved(f, t, "clean", lambda p: cut(p / "low/1.png"))},
        "not a readable image",
    ),
    "another size": (
        lambda f, t: {"clean": moved(f, t, "clean", lambda p: Image.new("RGB", (8, 8)).save(p / "low/1.png"))},
        "1.png",
    ),
    "another class": (
        lambda f, t: {"options": ("--test", moved(f, t, "test", lambda p: (p / "low").rename(p / "x")))},
        "4 class folders",
    ),
    "names short": (lambda f, t: {"options": ("--classes", text(t, b"high\nlow"))}, "2 class names; the model has 3"),
    "names other": (lambda f, t: {"options": ("--classes", text(t, b"a\nb\nc"))}, "none of the class names"),
    "names no text": (lambda f, t: {"options": ("--classes", text(t, b"\xff\xfe"))}, "no text"),
    "names missing": (lambda f, t: {"options": ("--classes", t / "no.txt")}, "no.txt"),
    "target alone": (lambda f, t: {"options": ("--target", "low")}, "belong together"),
    "triggered alone": (lambda f, t: {"options": ("--triggered", f / "triggered")}, "belong together"),
    "unknown target": (
        lambda f, t: {"options": ("--triggered", f / "triggered", "--target", "x")},
        "target 'x'; give one of high",
    ),
    "unknown defense": (lambda f, t: {"options": ("--defenses", "fft")}, "no defense 'fft'"),
    "needs training set": (lambda f, t: {"options": ("--defenses", "abl")}, "abl for suspect needs train"),
    "oracle without trigger": (lambda f, t: {"options": ("--defenses", "fine_pruning:choose=oracle")}, "needs|choose"),
    "bad setting": (lambda f, t: {"options": ("--defenses", "ft:epochs=no")}, "whole number"),
    "one seed or many": (lambda f, t: {"options": ("--seeds", "3")}, "one seed or how many"),
    "out is a file": (lambda f, t: {"out": text(t, b"", "file")}, "no folder|file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_in_a_line(folder, tmp_path, capsys, name):
    prepare, message = WRONG[name]
    given = {"out": tmp_path / "out"} | prepare(folder, tmp_path)
    options = given.pop("options", ())
    assert cli.main(call(folder, *options, **given)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("bdjax: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out" / "models").exists() and "Traceback" not in out


def test_a_defense_that_fails_does_not_cost_the_others(folder, tmp_path, capsys, monkeypatch):
    """The second defense breaks while it runs: the first is written all the same, and the status says what happened."""
    from bdjax.engine import chunks

    run = chunks.run

    def broken(context, group, jobs):
        if group.label.startswith("ft:epochs=2"):
            raise RuntimeError("out of order")
        return run(context, group, jobs)

    monkeypatch.setattr(chunks, "run", broken)
    assert cli.main(call(folder, "--defenses", FT, "ft:epochs=2,batch=8", out=tmp_path / "out")) == 2
    told = capsys.readouterr()
    assert "ft:epochs=2,batch=8: RuntimeError: out of order" in told.err and told.err.count("bdjax: ft:epochs=2") >= 1
    (written,) = (tmp_path / "out" / "purified").iterdir()
    assert (written / "model.safetensors").exists() and str(written) in told.out


def test_prefixes_of_training_tools_and_gray_images(folder, tmp_path, capsys):
    """Names behind `_orig_mod.module.` are the network's; gray images serve a network of colored ones."""
    state = {f"_orig_mod.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(state, tmp_path / "compiled.safetensors")
    for path in (folder / "clean").rglob("*.png"):
        place = tmp_path / "clean" / path.relative_to(folder / "clean")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).getchannel(CLASSES.index(path.parent.name)).save(place)
    given = call(folder, "--defenses", FT, weights=tmp_path / "compiled.safetensors", out=tmp_path / "out")
    given[given.index("--clean") + 1] = str(tmp_path / "clean")
    assert cli.main(given) == 2
    assert "which is chance" in capsys.readouterr().err  # without its color every class looks alike, but it was tried


def test_another_suspect_needs_a_folder_of_its_own(folder, purified, tmp_path, capsys):
    path = changed(
        folder, tmp_path, lambda state: state.update({"module.linear.bias": state["module.linear.bias"] + 1})
    )
    extra = ["--test", folder / "test", "--triggered", folder / "triggered", "--target", "high", "--defenses", FT]
    assert cli.main(call(folder, *extra, out=purified, **path)) == 2
    assert "holds a study of victim" in capsys.readouterr().err


def test_a_purified_study_says_where_its_models_are(purified):
    with pytest.raises(InvalidInput, match="whose models are the folders in"):
        bdjax.load_model(purified, defense=FT)
    net, weights = bdjax.load_model(next((purified / "purified").glob("ft*")))
    assert net.plain is None and weights.params
