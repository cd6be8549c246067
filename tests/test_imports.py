"""Imports go one way, and `import bdjax` and `bdjax.run` need only what they must."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

import bdjax

PACKAGE = Path(__file__).parent.parent / "bdjax"

LAYERS = (
    ("types", "errors"),
    ("cards", "host", "keys", "paths"),
    ("data",),
    ("metrics", "models"),
    ("train",),
    ("attacks", "selections", "detection", "audits"),
    ("defenses",),
    ("cells",),
    ("io",),
    ("study",),
    ("engine",),
    ("report",),
    ("analysis", "bench"),
    ("cli",),
)
"""Folders and modules of bdjax from the bottom: each imports from layers below its own, a folder also from itself."""

CONFINED = {
    "flax.linen": ["models"],
    "fsspec": ["io"],
    "h5netcdf": [],
    "h5py": ["io"],
    "jinja2": ["report"],
    "matplotlib": ["bench", "report"],
    "orbax": ["io"],
    "pandas": ["report"],
    "safetensors": ["io"],
    "sklearn": ["detection", "io", "metrics"],
    "tensorflow_datasets": ["io"],
    "torch": ["bench", "io"],
    "tyro": ["cli"],
}
"""Which packages of bdjax may import what."""

HEAVY = (
    *("tensorflow_datasets", "orbax", "xarray", "h5py", "safetensors", "sklearn", "PIL"),
    *("matplotlib", "jinja2", "tyro", "rich", "pandas", "scipy", "torch"),
)
"""What `import bdjax` and its registries may not load, unless jax, flax or optax have."""

LACKING = ("tyro", "tensorflow_datasets", "array_record", "h5netcdf")
"""What `bdjax.run` must do without."""


def unit(path: Path) -> str:
    """The folder or module of the package that a file belongs to; bdjax for the package's own files."""
    first = path.relative_to(PACKAGE).with_suffix("").parts[0]
    return "bdjax" if first in ("__init__", "__main__") else first


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere in it; of `from a import b` a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))
PLACE = {name: place for place, layer in enumerate(LAYERS) for name in layer}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = unit(path)
    if own == "bdjax":
        return
    assert own in PLACE, f"give {own} a layer"
    for name in imported(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package != "bdjax" or other == own:
            continue
        if other in PLACE:
            assert PLACE[other] < PLACE[own], f"{own} imports {other}"
        else:  # the public names, which the command alone uses
            assert own == "cli", f"{own} imports {name}"


@pytest.mark.parametrize("folder", ["attacks", "selections", "defenses", "audits", "detection", "analysis", "models"])
def test_in_a_methods_folder_every_file_is_an_entry_of_its_registry(folder):
    names = {"analysis": "ANALYSES", "detection": "DETECTORS"}
    registry = getattr(bdjax, names.get(folder, folder.upper()))
    names = {name for name, method in registry.items() if method.make.__module__.startswith("bdjax.")}
    files = {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__"}
    assert files == names | ({"poisoned_set"} if folder == "attacks" else set())  # the entry of `set:PATH`


@pytest.mark.parametrize(("own", "other"), [("attacks", "defenses"), ("defenses", "attacks")])
def test_attacks_and_defenses_do_not_know_each_other(own, other):
    files = sorted((PACKAGE / own).rglob("*.py"))
    assert files
    for path in files:
        assert not [name for name in imported(path) if name.startswith(f"bdjax.{other}")]


@pytest.mark.parametrize("library", CONFINED)
def test_libraries_stay_where_they_belong(library):
    users = {unit(path) for path in FILES for name in imported(path) if f"{name}.".startswith(f"{library}.")}
    assert users <= set(CONFINED[library])


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


NAMES = "ATTACKS SELECTIONS DEFENSES AUDITS DETECTORS ANALYSES MODELS DATASETS Study InvalidInput evaluate"


def test_import_loads_nothing_heavy_and_sets_no_option():
    out = python(f"""
import sys
import jax, flax, optax
before, options = set(sys.modules), dict(jax.config.values)
import bdjax
for name in {NAMES.split()}:
    getattr(bdjax, name)
added = set(sys.modules) - before
print(sorted(name for name in {HEAVY} if name in added))
print(dict(jax.config.values) == options)
""")
    assert out.splitlines() == ["[]", "True"]


def test_import_alone_loads_no_method():
    code = "import sys, bdjax\nprint(sorted(name for name in sys.modules if name.startswith('bdjax')))"
    assert python(code) == "['bdjax']\n"


def test_every_public_name_is_there():
    import bdjax

    assert sorted(bdjax.__all__) == sorted({*bdjax.__all__})
    for name in bdjax.__all__:
        assert getattr(bdjax, name) is not None
        assert name in dir(bdjax)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bdjax.nothing  # noqa: B018


def test_run_does_without_what_accelerator_machines_lack(tmp_path):
    study = tiny.study(tmp_path, ratios=(0.0,), seeds=(0,), recipe="epochs=1", plugins=("tiny",))
    out = python(f"""
import sys
sys.modules.update(dict.fromkeys({LACKING}))  # importing one of them raises ImportError
sys.path.append({str(Path(__file__).parent)!r})
import bdjax
from bdjax.cli.conduct import conduct
study = bdjax.Study(**{vars(study)})
results = bdjax.run(study, out={str(tmp_path / "study")!r})
print(results.acc.shape, bool(results.acc.notnull().all()))
print(bdjax.load_curves({str(tmp_path / "study")!r}).sizes["epoch"])
""")
    assert out.splitlines() == ["(1, 1, 1, 1) True", "1"]
