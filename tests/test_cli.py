"""The command: what it refuses and how, what it prints, and how it ends."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import numpy as np
import pytest
import tiny

import bdjax
from bdjax import cli
from bdjax.attacks import ATTACKS
from bdjax.cells import lift
from bdjax.cli import quickstart
from bdjax.cli.run import seeds
from bdjax.errors import InvalidInput

COMMAND = [sys.executable, "-c", "import sys; from bdjax.cli import main; sys.exit(main())"]
KINDS = ("attacks", "selections", "defenses", "audits", "detectors", "analyses", "models", "datasets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture
def refused(folder, tmp_path, monkeypatch, capsys):
    """Runs the command, asserts that it refuses in one line before anything is trained, and gives the line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, trained="out/models"):
        assert cli.main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("bdjax: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert not list((tmp_path / trained).glob("*")) if (tmp_path / trained).exists() else True
        return err

    return run


BAD = {
    "model nope": "no model 'nope'; choose from",
    "share 4/3": "share '4/3'; give K/N such as 3/16, K from 1 to N",
    "share 0/3": "share '0/3'; give K/N",
    "share half": "share 'half'; give K/N",
    "attacks nope": "no attack 'nope'; choose from",
    "attacks badnet": "no attack 'badnet'; did you mean badnets?",
    "attacks badnets:foo=1": "badnets has no setting 'foo'; it has size",
    "attacks badnets:sizes=1": "badnets has no setting 'sizes'; did you mean size?; it has size",
    "recipe epoch=3": "recipe has no setting 'epoch'; did you mean epochs?",
    "seeds 3": "seeds 3: one seed or how many? Give 3:4 for seed number 3 and 0:3 for 3 seeds",
    "attacks sig --ratios 0.5": "among the ratios sig=",
    "ratios sig=0.1": "the study has no attack 'sig'; it has badnets",
    "attacks badnets:size": "write name:setting=value",
    "attacks badnets:size=x": "badnets:size=x: give a whole number at least 1",
    "attacks badnets:size=3,size=4": "size is given twice",
    "attacks badnets:size=17": "size 17 exceeds 16x16 pixels; choose at most 16",
    "attacks badnets:target=3": "target 3 of 3 classes; choose 0 to 2",
    "attacks badnets:target=-1": "target=-1: give a whole number at least 0",
    "attacks badnets:preset=benchmrk": "badnets has no preset 'benchmrk'; did you mean benchmark?",
    "attacks badnets:preset=foo": "no preset 'foo'; choose from paper, benchmark",
    "attacks badnets badnets": "attacks: badnets is given twice",
    "attacks blended:alpha=inf": "blended:alpha=inf: give a number",
    "attacks set:": "'set:' names no file",
    "attacks set:missing.npz": "'missing.npz': no such file",
    "attacks": "no attacks; give at least one",
    "ratios": "no ratios; give at least one",
    "ratios -0.1": "ratio -0.1; give a fraction",
    "ratios 1.5": "ratio 1.5; give a fraction",
    "ratios nan": "ratio nan; give a fraction",
    "ratios abc": "ratio 'abc'; give fractions",
    "ratios 0.0001": "the smallest ratio is",
    "attacks sig --ratios sig=0.5": "sig at ratio 0.5 poisons 90 rows; 60 can be; the largest ratio is 0.3333",
    "seeds": "no seeds; give at least one",
    "seeds -1": "seed -1; give whole numbers from 0",
    f"seeds {'9' * 5000}": "9'; give numbers, or a range",
    "seeds 0:0": "0 seeds; give the first and the one after the last",
    "seeds x": "seeds 'x'; give numbers, or a range",
    "seeds 1.5": "seeds '1.5'; give numbers",
    "seeds 99999999999": "give whole numbers from 0 to 2147483647",
    "seeds 0:99999999999": "99999999999 seeds",
    "seeds 0:4 3": "seeds: 3 is given twice",
    "defenses": "no defenses; give at least one",
    "defenses nope": "no defense 'nope'; choose from",
    "defenses ft ft": "defenses: ft is given twice",
    "defenses ft:epochs=1000000000000": "give a whole number at least 1, at most 2147483647",
    "audits nope": "no audit 'nope'",
    "audits retuning:rows=4": "leaves no clean row of 4; give fewer",
    "selection nope": "no selection 'nope'",
    "model small_cnn:width=0": "small_cnn:width=0: give a whole number at least 1",
    "model small_cnn:width=1000000": "with its weights alone",
    f"recipe epochs={'9' * 400}": "9: give a whole number at least 1, at most 2147483647",
    "recipe batch=0": "batch=0: give a whole number at least 1",
    "recipe epochs=-1": "epochs=-1: give a whole number at least 1",
    "recipe learning_rate=nan": "learning_rate=nan: give a number at least 0",
    "clean nonsense": "clean 'nonsense'; choose any or reserved",
    "clean-ratio 0": "clean_ratio 0.0; give a fraction",
    "clean-ratio 0.999 --valid-ratio 0.1": "take 65 rows a class; the smallest class has 60; lower them",
    "driver nonsense": "driver 'nonsense'; choose from auto",
    "memory nonsense": "memory 'nonsense'; give a size",
    "memory -1GB": "memory '-1GB'; give a size",
    "flip --no-flip": "both --flip and --no-flip",
    "seeds 0 --seeds 1": "--seeds is given twice; give it once",
    "plugin no_such_module": "ModuleNotFoundError: No module named 'no_such_module'; give a module",
}


@pytest.mark.parametrize("options", BAD)
def test_bad_option_is_refused_in_one_line(refused, folder, options):
    assert BAD[options] in refused("run", "--dataset", tiny.dataset(folder), "--out", "out", *f"--{options}".split())


@pytest.mark.parametrize("name", ["nope", "a name", "two\nlines", "", "../nope", "digits:foo=1", "\x1b[31mred"])
def test_bad_dataset_is_refused_in_one_line(refused, name):
    assert refused("run", "--dataset", name).isprintable() is False  # the newline at its end alone
    assert "\x1b" not in refused("run", "--dataset", name)


def test_dataset_of_one_class_is_refused(refused, tmp_path):
    arrays = {name: value[:4] if "image" in name else value[:4] * 0 for name, value in tiny.arrays().items()}
    np.savez(tmp_path / "one.npz", **arrays)
    assert "1 class; a classifier needs at least 2" in refused("run", "--dataset", "one.npz")


def test_images_smaller_than_the_network_are_refused(refused, tmp_path):
    arrays = {name: value[:, :2, :2] if "image" in name else value for name, value in tiny.arrays().items()}
    np.savez(tmp_path / "small.npz", **arrays)
    assert "small_cnn on 2x2 images; it needs 4 pixels" in refused("run", "--dataset", "small.npz")


BAD_TOML = {
    "seeds = [1,": "mend it there",
    "colour = 'red'": "no field 'colour'; a study has dataset, model",
    "[recipe]\nepochs = 1": "recipe is a table",
    "memory = 5": "memory: 5; give text",
    "dataset = 5": "dataset: 5; give text",
    "model = ['small_cnn']": "model: ['small_cnn']; give text",
    "selection = ['random']": "selection: ['random']; give text",
    "attacks = [1, 2]": "attacks: 1; give text",
    "attacks = true": "attacks: True; give text",
    "attacks = 2020-01-01": "attacks: datetime.date(2020, 1, 1); give text",
    "plugins = ['evil']": "study.toml runs the code of ['evil']; look at it and give --trust",
    "seeds = [1.5]": "seeds 1.5; give numbers",
    "seeds = 1.5": "seeds 1.5; give numbers",
    "seeds = ['0:x']": "seeds '0:x'; give numbers",
    "ratios = [[0.1]]": "ratios: [0.1]; give fractions",
    "ratios = [true]": "ratios: True; give fractions",
    "clean_ratio = 'x'": "clean_ratio: 'x'; give a fraction",
    "flip = 'yes'": "flip: 'yes'; give true or false",
    "\udcff\udcfe": "no text; give a TOML file",
}


@pytest.mark.parametrize("text", BAD_TOML, ids=lambda text: ascii(text).strip("'\""))
def test_bad_toml_is_refused_in_one_line(refused, tmp_path, text):
    (tmp_path / "study.toml").write_bytes(text.encode(errors="surrogateescape"))
    assert BAD_TOML[text] in refused("run", "study.toml")


def test_plugins_of_toml_are_imported_where_it_is_trusted(monkeypatch, asked, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text("plugins = ['plug']")
    assert cli.main(["run", "study.toml", "--trust"]) == cli.main(["run", "study.toml", "--plugin", "own"]) == 0
    assert [study.plugins for study, _ in asked] == [("plug",), ("own",)]


@pytest.mark.parametrize("path", ["missing.toml", "."])
def test_toml_that_cannot_be_read_is_refused(refused, path):
    assert f"{path}: " in refused("run", path)


BAD_PLUGINS = {
    "raise RuntimeError('two\\nlines')": "plugin 'plug': RuntimeError: two lines; give a module",
    "def (": "plugin 'plug': SyntaxError",
    "raise SystemExit(3)": "plugin 'plug': SystemExit: 3",
}


@pytest.mark.parametrize("text", BAD_PLUGINS)
@pytest.mark.parametrize("command", ["run", "list attacks"])
def test_bad_plugin_is_refused_in_one_line(refused, tmp_path, monkeypatch, command, text):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "plug.py").write_text(text)
    assert BAD_PLUGINS[text] in refused(*command.split(), "--plugin", "plug")


@pytest.mark.parametrize("out", ["file", "file/below", "long" * 100, "/proc/nope"])
def test_out_that_is_no_folder_is_refused(refused, folder, tmp_path, out):
    (tmp_path / "file").touch()
    assert "give a folder that can be written" in refused("run", "--dataset", tiny.dataset(folder), "--out", out)


def test_study_too_large_for_memory_is_refused(refused, folder):
    asked = ("--dataset", tiny.dataset(folder), "--out", "out", "--driver", "map", "--memory", "1MB", "--seeds", "0")
    assert "more than the memory allowed; give more --memory" in refused("run", *asked, "--model", "linear")


@pytest.mark.parametrize("path", [".", "missing", "file"])
def test_report_of_what_is_no_study_is_refused(refused, tmp_path, path):
    (tmp_path / "file").touch()
    assert "study.json" in refused("report", path)


@pytest.mark.parametrize(
    "options",
    [
        *("--drivers nope", "--cells 0", "--cells", "--steps 0", "--rounds -1", "--models nope", "--convolutions nope"),
        *("--cells 1000000000", "--cells 1000000000000", "--steps 1000000000000"),
    ],
)
def test_bad_bench_is_refused(refused, options):
    refused("bench", *options.split())


def test_nothing_asked_for_is_answered_with_an_example(refused):
    assert "bdjax run --attacks badnets" in refused("run")


NEAR = {
    "rn": "no command 'rn'; did you mean run?",
    "nonsense --out x": "no command 'nonsense'; choose from quickstart, run, report, purify, import, export, list, ",
    "list defense": "no kind 'defense'; did you mean defenses?",
    "list nonsense": "no kind 'nonsense'; choose from attacks, selections, defenses",
    "run --dataset digts": "no dataset 'digts'; did you mean digits?",
    "run --dataset cifr10": "no dataset 'cifr10'; did you mean cifar10?",
    "run --dataset cifar10:9.9.9": "no dataset 'cifar10:9.9.9': no such path, and TFDS knows no such name",
    "run --dataset nonsense": "no dataset 'nonsense': no such path",
}


@pytest.mark.parametrize("arguments", NEAR)
def test_a_name_that_is_not_known_says_which_was_meant(refused, arguments):
    assert NEAR[arguments] in refused(*arguments.split())


@pytest.mark.parametrize("arguments", ["run --nonsense", "list", "report", "doctor one two"])
def test_what_cannot_be_parsed_keeps_its_box(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    assert ended.value.code == 2
    assert "For full helptext, " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["", "--help"])
def test_help_names_all_commands(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("quickstart", "run", "report", "list", "doctor", "bench"))


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom bdjax.cli import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass\n"
    code += "print('loaded', sorted({'jax', 'numpy', 'xarray', 'rich'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "loaded []"


def test_seeds():
    assert seeds(["0:3", "7", 9]) == (0, 1, 2, 7, 9)
    assert seeds("4:6") == seeds(["4", "5"]) == (4, 5)
    assert seeds(":2") == (0, 1)
    assert seeds([3]) == (3,) and seeds(0) == seeds(("0",)) == (0,)
    for lone in (3, ("3",), "3"):
        with pytest.raises(InvalidInput, match="Give 3:4 for seed number 3 and 0:3 for 3 seeds"):
            seeds(lone)
    for bad in ("", ":", "4:2", "3:3", True, "1e3"):
        with pytest.raises(InvalidInput, match="seeds"):
            seeds([bad])


@pytest.fixture
def asked(monkeypatch):
    """The studies and folders that the command would run."""
    found = []
    monkeypatch.setattr("bdjax.cli.conduct.conduct", lambda study, out, share: found.append((study, str(out))))
    return found


def test_options_win_over_toml(asked, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(
        'dataset = "cifar10"\nseeds = ["0:2", 5]\nratios = [0.1, "sig=0.05"]\naudits = ["retuning"]\nflip = true\n'
    )
    options = "--dataset digits --ratios 0.2 --audits --no-flip --clean-ratio 0.1 --plugin first second --out there"
    assert cli.main(["run", str(path)]) == cli.main(["run", str(path), *options.split()]) == 0
    (plain, here), (merged, there) = asked
    assert (plain.dataset, plain.seeds, plain.ratios) == ("cifar10", (0, 1, 5), (0.1, "sig=0.05"))
    assert (plain.audits, plain.flip, plain.plugins, here) == (("retuning",), True, (), "runs/study")
    assert (merged.dataset, merged.seeds, merged.ratios) == ("digits", (0, 1, 5), ("0.2",))
    assert (merged.audits, merged.flip, merged.clean_ratio) == ((), False, 0.1)
    assert (merged.plugins, there) == (("first", "second"), "there")


def test_every_field_of_a_study_has_an_option():
    fields = {field.name for field in dataclasses.fields(bdjax.Study)} - {"plugins"}
    own = {"plugin", "study", "no_flip", "out", "share", "trust", "dry_run"}
    options = {field.name for field in dataclasses.fields(cli.run.Run)} - own
    assert fields == options


@pytest.mark.parametrize("kind", KINDS)
def test_list_shows_every_card(capsys, kind):
    methods = getattr(bdjax, kind.upper())
    assert cli.main(["list", kind, "--json"]) == 0
    cards = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert list(cards) == list(methods)
    for name, method in methods.items():
        assert cards[name] == json.loads(json.dumps(dataclasses.asdict(method.card)))
    assert cli.main(["list", kind]) == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    for name, method in methods.items():
        assert method.card.title in lines[name] and str(method.card.year) in lines[name]
    assert cli.main(["list", kind, *methods]) == 0
    text = capsys.readouterr().out
    for name, method in methods.items():
        (card,) = [part for part in text.split("\n\n") if part.startswith(f"{name}  ")]
        said = (method.card.citation, *method.card.departures, *(one.about for one in method.card.settings.values()))
        assert all(words.replace("`", "") in card for words in said)
        assert all(f"    {setting}=" in card for setting in method.card.settings)


def test_list_of_one_that_is_not_there(refused):
    assert "no attacks: 'badnet'; did you mean badnets?" in refused("list", "attacks", "badnet")
    assert "choose from adaptive_blend" in refused("list", "attacks", "badnets", "xyz")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bdjax 0.")


def test_plugin_in_the_working_folder_registers(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(ATTACKS, "same_again", ATTACKS["badnets"])  # so that it is removed after the test
    del ATTACKS["same_again"]
    (tmp_path / "my_attacks.py").write_text("from bdjax import ATTACKS\nATTACKS['same_again'] = ATTACKS['badnets']\n")
    assert cli.main(["list", "attacks", "--plugin", "my_attacks"]) == 0
    assert "same_again" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "wanted"), [({}, None), ({"JAX_NUM_CPU_DEVICES": "3"}, 3)])
def test_every_core_is_a_device_unless_somebody_says_otherwise(given, wanted):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | given
    found = subprocess.run([*COMMAND, "doctor"], env=environment, capture_output=True, text=True, check=True)
    assert f"devices: {wanted or len(os.sched_getaffinity(0))} on 1 process" in found.stdout


def test_doctor_tells_of_the_machine(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for words in ("jax 0.", "numpy 2.", "devices: 2", "a study may take", "digits, built in", "drivers"):
        assert words in out


def test_bench_writes_figures(capsys, folder, tmp_path):
    path = tmp_path / "deep" / "bench.json"
    options = "--models linear --cells 1 2 --steps 1 --rounds 1 --drivers map --recipe batch=16"
    assert cli.main(["bench", "--dataset", tiny.dataset(folder), "--out", str(path), *options.split()]) == 0
    found = json.loads(path.read_text())
    assert [(row["model"], row["side"], row["cells"]) for row in found["rows"]] == [
        ("linear", "map suited", 1),
        ("linear", "map suited", 2),
    ]
    for row in found["rows"]:
        assert 0 < row["low"] == row["median"] == row["high"]
        assert row["images_per_second"] == pytest.approx(16e3 / row["median"])
        assert 0 < row["share"] < 1 and row["bytes"] > 0
    assert (found["batch"], found["rounds"]) == (16, 1)
    assert "<svg" in path.with_suffix(".svg").read_text()
    (needs,) = found["needs"]
    assert needs["operations"] == 3 * 2 * 16 * 768 * 3 and needs["machine"] == "H200"
    assert needs["victims_an_hour"] == pytest.approx(3600 * needs["images_per_second"] / 100 / 180)
    out = capsys.readouterr().out
    assert "ms a step a cell" in out and "linear: 0.000221 GFLOP and 0 MB a step in bfloat16, so one H200" in out


def test_quickstart_writes_table_and_page_and_then_has_nothing_to_do(capsys, folder, tmp_path, monkeypatch):
    small = {"dataset": tiny.dataset(folder), "model": "linear", "recipe": "epochs=1", "seeds": range(2)}
    small |= {"defenses": ("none", "ft:epochs=1", "ft:epochs=1,learning_rate=0")}
    small |= {"attacks": ("badnets",), "ratios": (0.0, 0.1)}
    whole = quickstart.study
    monkeypatch.setattr(quickstart, "study", lambda memory: dataclasses.replace(whole(memory), **small))
    assert cli.main(["quickstart", "--out", str(tmp_path), "--memory", "12GB"]) == 0
    first = capsys.readouterr().out
    assert "badnets" in first and "ft:epochs=1" in first and "paired by seed" in first
    assert first.splitlines()[-1] == f"The page: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 2 * 2 * 3

    def compile(*arguments):
        raise AssertionError("something was compiled again")

    monkeypatch.setattr(lift.Program, "compile", compile)
    begun = time.perf_counter()
    assert cli.main(["quickstart", "--out", str(tmp_path), "--memory", "12GB"]) == 0
    assert capsys.readouterr().out == first
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first
    assert time.perf_counter() - begun < 20


def test_quickstart_is_the_study_of_its_help():
    study = quickstart.study()
    assert (len(study.attacks), len(study.ratios), len(study.seeds), len(study.defenses)) == (2, 3, 4, 3)
    assert (study.dataset, study.driver, study.memory) == ("digits", "map", "1GB")


ENDS = [
    (OSError(errno.ENOSPC, "No space left on device", "models/x"), 1, "the disk is full (models/x); make room"),
    (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "out: Permission denied; give a path"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), 2, "/proc/x: No such file or directory"),
    (OSError(errno.EIO, "Input/output error", "models/x"), 1, "models/x: Input/output error; nothing finished is lost"),
    (KeyboardInterrupt(), 130, "stopped by SIGINT"),
    (MemoryError(), 2, "out of memory"),
    (RuntimeError("RESOURCE_EXHAUSTED: 8 GB"), 2, "out of memory"),
]


@pytest.mark.parametrize(("error", "status", "words"), ENDS)
def test_how_errors_end(capsys, monkeypatch, error, status, words):
    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", lambda self: (_ for _ in ()).throw(error))
    assert cli.main(["doctor"]) == status
    assert capsys.readouterr().err.startswith(f"bdjax: {words}")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EBADF, "no path"), KeyError("x")])
def test_a_bug_is_not_hidden(monkeypatch, error):
    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", lambda self: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        cli.main(["doctor"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_python_drops_comes_again(capsys, monkeypatch, number):
    """As in a callback of the garbage collector, whose exceptions are printed and forgotten."""
    monkeypatch.setattr(cli, "AGAIN", 0.1)

    def run(self):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        time.sleep(20)

    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", run)
    assert cli.main(["doctor"]) == 128 + number
    assert capsys.readouterr().err.startswith(f"bdjax: stopped by {number.name}")


def test_a_signal_that_python_drops_at_the_end_is_not_forgotten(capsys, monkeypatch):
    def run(self):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", run)
    assert cli.main(["doctor"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.startswith("bdjax: stopped by SIGTERM")


def test_compiled_modules_are_imported_to_their_end(capsys, monkeypatch):
    """A signal that breaks off the import of jaxlib aborts the process."""
    whole = []

    def exec_module(self):
        os.kill(os.getpid(), signal.SIGTERM)
        whole.append(True)

    loader = ExtensionFileLoader("halfway", "halfway.so")
    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", lambda self: (exec_module(loader), time.sleep(20)))
    assert cli.main(["doctor"]) == 128 + signal.SIGTERM and whole
    assert capsys.readouterr().err.startswith("bdjax: stopped by SIGTERM")


def test_a_signal_in_code_that_is_made_up_ends_as_any_other():
    """As in `exec` of a dataclass: CPython would end by SIGINT."""
    code = "import os, sys; from bdjax import cli; sys.exit(cli.status(lambda: exec('os.kill(os.getpid(), 15)')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr.count("\n")) == (128 + signal.SIGTERM, 1)


def test_a_timer_that_was_left_behind_holds_nothing_up(monkeypatch):
    """JAX starts one of a minute while it looks for devices."""
    timer = threading.Timer(60, print)
    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", lambda self: (timer.start(), os.kill(os.getpid(), 15)))
    assert cli.main(["doctor"]) == 128 + signal.SIGTERM
    timer.join(10)
    assert not timer.is_alive()


def test_a_signal_that_comes_again_while_a_command_ends_changes_nothing(capsys, monkeypatch):
    before, restore = signal.getsignal(signal.SIGTERM), signal.signal

    def run(self):
        monkeypatch.setattr(signal, "signal", lambda *given: (os.kill(os.getpid(), signal.SIGTERM), restore(*given))[1])
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", run)
    threads = threading.active_count()
    assert cli.main(["doctor"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.count("stopped by SIGTERM") == 1
    time.sleep(0.5)
    assert signal.getsignal(signal.SIGTERM) is before and threading.active_count() <= threads


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_outside_a_study_ends_the_command(capsys, monkeypatch, number):
    before = signal.getsignal(number)
    monkeypatch.setattr("bdjax.cli.doctor.Doctor.run", lambda self: (os.kill(os.getpid(), number), time.sleep(5)))
    assert cli.main(["doctor"]) == 128 + number
    assert capsys.readouterr().err.startswith(f"bdjax: stopped by {number.name}")
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_study_ends_it_with_its_number(folder, tmp_path, number):
    options = "--model linear --plugin tiny --ratios 0 --seeds 0 --recipe epochs=1000000 --driver map"
    arguments = ["run", "--dataset", tiny.dataset(folder), "--out", str(tmp_path), *options.split()]
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and '"capacity"' not in _text(tmp_path / "plan.json"):
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert err == f"bdjax: stopped by {number.name}; the same command again goes on from here\n"
    assert list((tmp_path / "checkpoints").iterdir())


def _text(path) -> str:
    return path.read_text() if path.exists() else ""


def test_bad_input_ends_the_process_with_status_2(tmp_path):
    found = subprocess.run([*COMMAND, "run", "--dataset", "nope"], cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert found.stderr.startswith("bdjax: no dataset 'nope'")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_no_error():
    with subprocess.Popen([*COMMAND, "list", "attacks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


class Dropped:
    def __del__(self):
        raise KeyboardInterrupt


def test_a_signal_that_python_drops_leaves_no_traceback(monkeypatch):
    """What a handler raises where Python cannot pass it on is printed and forgotten; the signal comes again."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    assert cli.status(lambda: Dropped() and None) == 0 and not seen
    Dropped()
    assert len(seen) == 1


class Broken:
    def __init__(self, text):
        self.text = text

    def __del__(self):
        raise RuntimeError(self.text)


def test_what_tensorstore_prints_after_a_full_disk_is_left_out(capsys, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    assert cli.status(lambda: None) == 0
    Broken("Event loop is closed")
    assert capsys.readouterr().err == ""
    Broken("a bug")
    assert "a bug" in capsys.readouterr().err
