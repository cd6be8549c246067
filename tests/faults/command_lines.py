"""What the block `commands` asks the command for, none of which can be."""

LONG = "9" * 400

OPTIONS = {
    "dataset": [
        *("nope", "a\nb", "\x1b[31m", "x" * 5000, "../nope", "/etc/passwd", "/dev/zero", "digits:foo=1", "pipe"),
        *("folder", "file", "text.npz", "missing.npz"),
    ],
    "model": [
        *("nope", ":", "small_cnn:width=0", "small_cnn:width", "small_cnn:width=1,width=2", "small_cnn:nope=1", "é"),
        *("small_cnn:width=1000000", f"small_cnn:width={LONG}", "small_cnn:preset=nope"),
    ],
    "attacks": [
        *("", "nope", ":", "badnets:=", "badnets:size=1=2", "badnets badnets", "badnets:preset=nope", "set:"),
        *("set:missing.npz", "set:pipe", "set:/dev/zero", "set:text.npz", "set:folder", "badnets:target=3"),
        *("blended:picture=pipe", "blended:picture=/dev/zero", "blended:picture=file", "blended:picture=folder"),
        *("blended:picture=missing.png", "refool:folder=pipe", "refool:folder=folder", "badnets:size=17"),
    ],
    "ratios": [
        *("", "-0.1", "1.5", "nan", "inf", "-inf", "abc", "1e-9", "nope=0.1", "badnets=", "badnets=x", "0.1 0.1"),
        *("1e400", "0x1", "1/2", LONG, "badnets=nan", "badnets=-1", "=0.1", "0,1"),
    ],
    "seeds": [
        *("", "-1", "0:0", "x", "1.5", str(2**31), "0:1000000000000", "0:4 3", "5:1", "1:2:3", "9" * 5000, "nan"),
        *("0:" + "9" * 5000, ":", "-5:-1"),
    ],
    "defenses": [
        *("", "nope", ":", "ft ft", "ft:=", "ft:epochs", "ft:preset=nope", "ft:epochs=1,epochs=1", "spectral:tap=x"),
    ],
    "audits": ["nope", ":", "retuning retuning", "retuning:=", "retuning:rows=4", "retuning:preset=nope", "strip"],
    "detectors": ["nope", ":", "strip strip", "strip:=", "strip:preset=nope", "retuning", "beatrix:tap=nope"],
    "selection": ["nope", ":", "random:nope=1", "random:=", "random:preset=nope"],
    "recipe": [
        *("batch=0", "epochs=-1", "learning_rate=nan", "nope=1", "epochs=1,epochs=2", "epochs", "preset=nope", "="),
        *("epochs=99999999999", f"epochs={LONG}", "epochs=1.5", "learning_rate=-1", "momentum=2"),
    ],
    "clean": ["nonsense", "ANY"],
    "clean-ratio": ["0", "1", "-0.1", "nan", "inf", "1.5", "1e400"],
    "valid-ratio": ["0", "1", "-0.1", "nan", "inf", "1.5", "0.999", "1e400"],
    "suspects": ["-1", "1"],
    "driver": ["nonsense", "MAP", "loop,map"],
    "memory": ["nonsense", "-1GB", "0", "0GB", "nanGB", "infGB", "1e400GB", f"{LONG}GB", "GB", "1GBGB", "1XB", "1KB"],
    "plugin": ["no_such_module", "", ".", "..", "a b", "../x", "file", "os.nothing", "é"],
    "share": ["4/3", "0/3", "half", "", "1/0", "-1/2", "1/99999999", "1/2/3", " 1/2", "1", "/", "nan/2", "1.5/2"],
    "out": ["", "file", "file/below", "long" * 100, "/proc/nope", "pipe", "/dev/null", "/dev/null/x", "text.npz"],
    "study": ["missing.toml", ".", "pipe", "/dev/zero", "large", "", "file", "text.npz"],
    "flip": ["--no-flip"],
}
"""What each option of `bdjax run` may not be; where it takes several values, they are parted by spaces."""

SEVERAL = ("attacks", "ratios", "seeds", "defenses", "audits", "detectors", "plugin")

OTHERS = (
    *("report missing", "report .", "report file", "report pipe", "report /dev/zero", "report folder missing"),
    *(
        "report folder --bound nan",
        "report folder --bound -1",
        "report folder --bound 101",
        "report folder --bound inf",
    ),
    *("report ''", "report folder --out ''", "report . --latex --latex", "report nope://bucket/x"),
    *("doctor missing", "doctor file", "doctor pipe", "doctor ''", "doctor text.npz"),
    *("list attacks --plugin no_such_module", "list models --plugin ''", "list datasets --plugin file"),
    *("quickstart --memory nonsense", "quickstart --memory nanGB", "quickstart --out file", "quickstart --out ''"),
    *("quickstart --out pipe", f"quickstart --memory {LONG}GB", "quickstart --out a --out b"),
    *(
        "bench --drivers nope",
        "bench --cells 0",
        "bench --cells -1",
        "bench --cells",
        "bench --out ''",
        "bench --drivers",
    ),
    *(
        "bench --rounds -1",
        "bench --models nope",
        "bench --models",
        "bench --convolutions nope",
        "bench --dataset nope",
    ),
    *("bench --recipe nope=1", "bench --recipe batch=0", "bench --cells 1000000000000", f"bench --cells {LONG}"),
    *("bench --models small_cnn:width=0", "bench --dataset pipe", "bench --cells 1 --cells 2", "bench --steps 0"),
    *("bench --steps 1000000000000", f"bench --steps {LONG}", f"bench --rounds {LONG}", "bench --dataset nope", "run"),
)
"""Of the other commands, and `run` without anything."""

UNPARSED = (
    *("nonsense", "run --nonsense", "run --suspects x", "run --suspects 1.5", "run --suspects nan", "run --suspects"),
    *("run --clean-ratio x", "run --valid-ratio x", "run a.toml b.toml", "run --seeds 0 --nope", "run --model"),
    *("run --out", "run --flip=maybe", "run --keep-scores=2", "list", "list nonsense", "list attacks models", "report"),
    *("report a --bound x", "doctor one two", "bench --cells x", "bench --steps 1.5", "bench --rounds x"),
    *("quickstart extra", "quickstart --memory", "--nonsense"),
)
"""What tyro cannot parse."""

TOML = {
    "texts": ["5", "1.5", "true", "[1]", "2020-01-01", "{}", "nan", "[['x']]"],
    "lists": ["5", "true", "[5]", "[['x']]", "[{}]", "2020-01-01", "nan", "[true]"],
    "ratios": ["[]", "true", "[[0.1]]", "'x'", "[nan]", "[-0.1]", "[1.5]", "[inf]", "[0.1, 0.1]", "{}", "2020-01-01"],
    "seeds": ["[]", "1.5", "'x'", "true", "[-1]", "[2147483648]", "[0, 0]", "'0:0'", "nan", "[[0]]", "{}", "[true]"],
    "clean_ratio": ["'x'", "true", "nan", "0", "1", "-0.5", "inf", "[0.1]", "1e400", LONG, "2020-01-01", "{}"],
    "suspects": ["'x'", "1.5", "-1", "1", "true", "nan", "[5]", "{}"],
    "keep_scores": ["'yes'", "1", "[true]", "0.0", "{}"],
}
"""What fields of a study may not be in TOML."""

TEXTS = ("dataset", "model", "selection", "recipe", "clean", "driver", "memory")
FIELDS = (
    *((name, value) for name in TEXTS for value in TOML["texts"]),
    *((name, value) for name in ("attacks", "defenses", "audits", "detectors") for value in TOML["lists"]),
    *((name, value) for name in ("ratios", "seeds", "suspects", "keep_scores") for value in TOML[name]),
    *((name, value) for name in ("clean_ratio", "valid_ratio") for value in TOML["clean_ratio"]),
    *(("flip", value) for value in TOML["keep_scores"]),
)

BROKEN = (
    "a = " + "[" * 5000 + "]" * 5000,
    "a = " + "9" * 5000,
    "seeds = [1,",
    "x = 1",
    "[recipe]",
    "= 1",
    "\0",
    "a\n=",
)
"""TOML that is none, or is not a study's."""

STUDY = """dataset = "digits"
attacks = ["badnets", "blended:alpha=0.1"]
ratios = [0.0, 0.1, "badnets=0.05"]
seeds = ["0:4", 7]
defenses = ["none", "ft:epochs=1"]
audits = ["retuning"]
recipe = "epochs=2,batch=64"
clean_ratio = 0.1
flip = false
memory = "8GB"
"""

PLUGINS = (
    *("raise RuntimeError('two\\nlines')", "def (", "raise SystemExit(3)", "import no_such_module", "1 / 0", "\\"),
    *("def f(): f()\nf()", "'\\ud800'.encode()", "raise Exception", "bdjax.DEFENSES['odd'] = lambda: None"),
    *("bdjax.DEFENSES['odd'] = None", "bdjax.DEFENSES['odd'] = ('a', 'b')", "bdjax.ATTACKS['odd'] = 5"),
    *("bdjax.MODELS['odd'] = 'text'", "bdjax.AUDITS['odd'] = []", "bdjax.DETECTORS[5] = 5"),
    "bdjax.SELECTIONS['odd'] = bdjax.cards.Method(None, None)",
    "bdjax.MODELS['odd'] = bdjax.cards.Method('card', len)",
)
"""Plugins that cannot be imported, or register something else than a method."""

MAKES = (
    *("lambda *a, **k: None", "lambda *a, **k: 'text'", "lambda: ()", "lambda *a, **k: 1 / 0", "None", "len"),
    "lambda *a, **k: (None,)",
)
"""What a plugin may not give as `make` of a method of its own."""

LIKE = {
    "ATTACKS": ("badnets", "attacks"),
    "SELECTIONS": ("random", "selection"),
    "DEFENSES": ("ft", "defenses"),
    "AUDITS": ("retuning", "audits"),
    "DETECTORS": ("strip", "detectors"),
    "MODELS": ("small_cnn", "model"),
}
"""Registry -> the method whose card a plugin's own gets, and the option that asks for it."""

REGISTERED = """import dataclasses
entry = bdjax.{kind}["{like}"]
bdjax.{kind}["odd"] = entry._replace(card=dataclasses.replace(entry.card, name="odd"), make={make})
"""


WRONG = {float: ["nan", "inf", "x", "1" + LONG], int: ["1.5", "x", LONG, "-" + LONG], bool: ["maybe", "2"]}
"""What no setting of a type may be."""


def settings():
    """(option, method, text) with a value that no setting of its type may have, for all methods."""
    import bdjax

    for kind, (_, option) in LIKE.items():
        for name, method in getattr(bdjax, kind).items():
            yield option, name, f"{name}:nope=1"
            for setting, about in method.card.settings.items():
                wrong = {
                    float: ["nan", "inf", "x", "1" + LONG],
                    int: ["1.5", "x", LONG, "-" + LONG],
                    bool: ["maybe", "2"],
                }
                values = wrong.get(type(about.default), ["nope"] if about.choices else [])
                values = values + ([] if about.low is None else [f"{about.low - 1:g}"])
                values = values + ([] if about.high is None else [f"{about.high + 1:g}"])
                for value in values:
                    yield option, name, f"{name}:{setting}={value}"
