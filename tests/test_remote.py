"""Studies in an object store: shares by writers that have nothing else in common, kills, and what is read there."""

import shutil

import fsspec
import numpy as np
import pytest
import tiny

import bdjax
from bdjax import cli
from bdjax.analysis.parts import stored
from bdjax.engine import run as engine
from bdjax.errors import Damaged, InvalidInput
from bdjax.io.store import remote
from bdjax.io.store.documents import read_json, text_of

ASKED = {
    "seeds": (0, 1),
    "ratios": (0.0, 0.1),
    "defenses": ("none", "ft:epochs=1,batch=8"),
}
FIGURES = ("acc", "asr", "ra", "der", "overlap", "status")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def alone(data):
    return bdjax.run(tiny.study(data, **ASKED), data / "alone"), data / "alone"


@pytest.fixture
def url():
    """A place in fsspec's store in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    return "memory://bucket/study"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Goes to another machine: one whose cache has nothing of the study."""

    def go(number: int):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"host{number}"))

    go(0)
    return go


def there(url) -> dict[str, bytes]:
    files, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root): files.cat_file(path) for path in files.find(root)}


def same(one, two) -> None:
    for name in FIGURES:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_shares_on_machines_that_have_nothing_in_common(alone, data, url, host, monkeypatch):
    """Three shares, one of them killed after a chunk and run again elsewhere, one run twice."""
    study = tiny.study(data, **ASKED)
    for share in (1, 2):
        host(share)
        bdjax.run(study, url, share=(share, 3))
    before = there(url)
    host(3)
    ready = engine.chunks.run

    def die(*asked):
        if killed:
            raise KeyboardInterrupt
        killed.append(ready(*asked))

    killed = []
    monkeypatch.setattr(engine.chunks, "run", die)
    with pytest.raises(KeyboardInterrupt):
        bdjax.run(study, url, share=(3, 3))
    monkeypatch.setattr(engine.chunks, "run", ready)
    for number, share in (4, 3), (5, 1):
        host(number)
        bdjax.run(study, url, share=(share, 3))
    host(6)
    same(bdjax.load(url), alone[0])
    once = {name: content for name, content in before.items() if name.count("/") > 1}
    assert once and once.items() <= there(url).items()  # nobody has written anything twice
    kept = {path.name for path in (alone[1] / "models").iterdir()}
    assert {name.rpartition("/")[2] for name in there(url) if "/models/" in name} == kept
    assert not list((remote.of(url).folder / "models").glob("*"))  # figures alone were brought


def test_what_is_finished_is_not_done_again_elsewhere(data, url, host):
    judged = {"detectors": ("strip:overlays=2",), "keep_scores": True}
    study = tiny.study(data, **ASKED | {"seeds": (0,)} | judged)
    first = bdjax.run(study, url)
    scores = bdjax.load_scores(url)
    host(1)
    assert scores.keys() == bdjax.load_scores(url).keys()
    recorder = tiny.Recorder()
    same(bdjax.run(study, url, recorder), first)
    assert recorder.models == 0 and not recorder.compiled_labels
    bdjax.run(tiny.study(data, **ASKED), url, recorder)
    assert recorder.models == 4  # of one more seed: two victims and their tunings


def test_a_damaged_model_in_the_store_is_made_again(data, url, host):
    study = tiny.study(data, **ASKED | {"seeds": (0,), "defenses": ("none",)})
    first = bdjax.run(study, url)
    files, root = fsspec.core.url_to_fs(url)
    for path in files.find(f"{root}/models"):
        content = bytearray(files.cat_file(path))
        content[-1] ^= 1
        files.pipe_file(path, bytes(content))
    host(1)
    after = bdjax.run(tiny.study(data, **ASKED | {"seeds": (0,)}), url)
    np.testing.assert_array_equal(after["acc"].sel(defense="none"), first["acc"].sel(defense="none"))
    host(2)
    folder = remote.of(url).folder
    shutil.rmtree(folder, ignore_errors=True)
    far = remote.of(url)
    far.pull()
    with engine.Store(far.folder, far) as store:
        for name in there(url):
            if "/models/" in name:
                store.load_model(name.rpartition("/")[2].removesuffix(".safetensors"))


def test_analyses_read_from_the_store(alone, data, url, host, monkeypatch):
    monkeypatch.chdir(data)  # results name the images by content, without the folder that they lie in
    study = tiny.study(data, **ASKED | {"audits": ("retuning:epochs=1",)})
    bdjax.run(study, url)
    host(1)
    found = stored.opened(url, tiny.ATTACK, 0.1, ("none",), (0,), "retuning:epochs=1")
    assert found.seeds == (0,)
    model = remote.of(url).folder / "models"
    assert 1 <= len(list(model.iterdir())) <= 3  # what is looked at is brought, and no more


def test_changes_of_several_writers_at_one_moment_all_stand(url, host):
    """One reads, two others change what it has read, and only then does it write."""
    hosts = []
    for number in range(3):
        host(number)
        far = remote.of(url)
        hosts.append(engine.Store(far.folder, far))

    def add(number, before=lambda: None):
        def change(held):
            before()
            return {"seen": [*(held or {"seen": []})["seen"], number]}

        return lambda: hosts[number].update_json("plan.json", read_json, change)

    first = iter([add(1), add(2)])
    with hosts[0], hosts[1], hosts[2]:
        held = add(0, lambda: [go() for go in first])()
    assert held == {"seen": [1, 2, 0]}
    assert sorted(there(url)) == ["/plan.000002.json", "/plan.000003.json"]


def test_a_number_that_became_free_again_is_not_taken(url, host):
    far = remote.of(url)
    with engine.Store(far.folder, far) as store:
        for number in range(5):
            store.update_json("plan.json", read_json, lambda _, number=number: {"number": number})
        assert not far.commit("plan.json", 2, text_of({"number": 9}))
        assert sorted(there(url)) == ["/plan.000004.json", "/plan.000005.json"]


def test_shares_that_ask_for_different_cells_at_one_moment_lose_none(alone, data, url, host, monkeypatch):
    """Two writers of two halves of a study, each entering it while the other does."""
    halves = [tiny.study(data, **ASKED | {"seeds": (seed,)}) for seed in (0, 1)]
    read = engine.index.read_study

    def late(path):
        held = read(path)
        if not begun:
            begun.append(path)
            host(1)
            bdjax.run(halves[1], url)
            host(0)
        return held

    begun = []
    monkeypatch.setattr(engine.index, "read_study", late)
    bdjax.run(halves[0], url)
    same(bdjax.load(url), alone[0])


def flip_shards(url) -> None:
    files, root = fsspec.core.url_to_fs(url)
    for path in files.find(f"{root}/results"):
        if "/run-" in path:
            content = bytearray(files.cat_file(path))
            content[500] ^= 1
            files.pipe_file(path, bytes(content))


@pytest.mark.parametrize("looked", [False, True])
def test_damaged_shards_in_the_store_are_made_again(alone, data, url, host, looked):
    """Also in one chunk, under another name, and where a look has brought them before."""
    for seeds in (0,), (0, 1):
        bdjax.run(tiny.study(data, **ASKED | {"seeds": seeds}), url)
    flip_shards(url)
    host(1)
    if looked:
        with pytest.raises(Damaged):
            bdjax.load(url)
    bdjax.run(tiny.study(data, **ASKED), url)
    host(2)
    same(bdjax.load(url), alone[0])


def test_whatever_a_server_says_of_a_number_that_is_taken(url, host, monkeypatch):
    """Some answer with an error of their own, some write nothing and say that they did."""
    memory = type(fsspec.filesystem("memory"))
    put, answers = memory.pipe_file, iter([OSError(22, "At least one of the pre-conditions failed"), None])

    def pipe_file(self, path, value, mode="overwrite", **options):
        if mode == "create" and self.exists(path):
            answer = next(answers)
            if answer:
                raise answer
            return
        put(self, path, value)

    monkeypatch.setattr(memory, "pipe_file", pipe_file)
    with engine.Store.at(url) as store:
        for number in range(2):
            other = remote.of(url)

            def change(held, number=number, other=other):
                seen = (held or {"seen": []})["seen"]
                if f"other {number}" not in seen:
                    last = other.last("plan.json")[0]
                    assert other.commit("plan.json", last + 1, text_of({"seen": [*seen, f"other {number}"]}))
                return {"seen": [*seen, number]}

            held = store.update_json("plan.json", read_json, change)
    assert held["seen"] == ["other 0", 0, "other 1", 1]


def test_a_file_that_is_listed_and_not_there_is_an_error(url, host, monkeypatch):
    far = remote.of(url)
    assert far.commit("plan.json", 1, text_of({"number": 1}))
    monkeypatch.setattr(remote, "PAUSE", 0.0)

    def gone(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", gone)
    with pytest.raises(OSError, match=r"plan\.000001\.json is listed and not there"):
        far.pull()


def test_doctor_looks_into_a_store(data, url, host, capsys):
    bdjax.run(tiny.study(data, **ASKED | {"seeds": (0,)}), url)
    host(1)
    assert cli.main(["doctor", url]) == 0 and "nothing is damaged" in capsys.readouterr().out
    files, root = fsspec.core.url_to_fs(url)
    (path, *_) = files.find(f"{root}/models")
    files.pipe_file(path, files.cat_file(path)[:-1])
    host(2)
    assert cli.main(["doctor", url]) == 2 and "1 damaged" in capsys.readouterr().err


def test_names_that_lead_out_of_the_mirror_are_left_alone(data, url, host):
    study = tiny.study(data, **ASKED | {"seeds": (0,), "defenses": ("none",)})
    bdjax.run(study, url)
    files, root = fsspec.core.url_to_fs(url)
    for name in ("results/../../../x", "failures/../study.json", "results/.hidden", "other.json"):
        files.pipe_file(f"{root}/{name}", b"evil")
    host(1)
    bdjax.load(url)
    held = [path for path in remote.of(url).folder.parent.parent.parent.rglob("*") if path.is_file()]
    assert held and not [path for path in held if path.read_bytes() == b"evil"]


def test_what_was_removed_in_the_store_is_made_again_there(data, url, host):
    study = tiny.study(data, **ASKED | {"seeds": (0,), "defenses": ("none",)})
    bdjax.run(study, url)
    before = there(url)
    fsspec.filesystem("memory").store.clear()
    recorder = tiny.Recorder()
    bdjax.run(study, url, recorder)  # by a host whose mirror had it
    assert recorder.models == 2 and there(url).keys() >= {name for name in before if "/results/" in name}


def test_what_names_no_store(tmp_path):
    for place in ("runs/study", tmp_path, "C:/there", "a:b"):
        assert remote.of(place) is None
    for place in ("file:///there", "nosuch://there"):
        with pytest.raises(InvalidInput, match="no object store; give"):
            remote.of(place)
    from pathlib import Path

    assert remote.of(Path("memory://bucket/study")).url == "memory://bucket/study"


def test_a_store_whose_library_is_missing_or_that_cannot_be_reached(monkeypatch, url, data):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(InvalidInput, match="s3://bucket/study: Install s3fs"):
        remote.of("s3://bucket/study")
    monkeypatch.undo()

    def refused(self, *asked, **options):
        raise RuntimeError("no\n credentials")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", refused)
    with pytest.raises(OSError, match="no credentials") as caught:
        bdjax.load(url)
    assert caught.value.filename == url
