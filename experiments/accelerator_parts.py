"""What `experiments.accelerator` measures: parts, each a list of measurements, and the table of what they found.

A measurement gives plain values for JSON. Nothing here imports JAX before it runs, so that the process that starts the
parts leaves the device to them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Size(NamedTuple):
    """How much of everything."""

    images: int  # random ones, for the training split of what is only timed
    network: str  # that is timed beside PyTorch
    narrow: str  # settings of airbench
    batch: int
    cells: tuple[int, int]  # few and many
    small: tuple[int, ...]  # numbers of cells of the small network
    steps: int  # a timed call
    rounds: int
    seeds: tuple[int, int]  # of victims of the speed recipe: first and in all
    speed: str  # the speed recipe
    short: str  # the short recipe
    defenses: tuple[str, ...]
    data: str = ""  # images for what trains to an end; "" leaves that out


DEFENSES = ("ft", "ft_sam", "sau", "npd", "i_bau", "clp")
SIZES = {
    "full": Size(
        50_000, "preact_resnet18", "", 128, (8, 32), (1, 32, 256), 30, 3, (4, 16),
        "preset=speed", "preset=short", DEFENSES,
    ),
    "tiny": Size(
        300, "small_cnn:width=2", "width=2", 16, (2, 3), (1, 4), 1, 1, (1, 2), "preset=speed,batch=64,epochs=1",
        "preset=short,epochs=1,batch=64", ("ft:epochs=1",),
    ),
}  # fmt: skip


class Measurement(NamedTuple):
    """One line of the results."""

    name: str
    run: Callable[[], dict[str, Any]]
    environment: tuple[str, ...] = ()  # NAME=VALUE that the process must have from its beginning


def networks(size: Size) -> dict[str, str]:
    """The networks that are timed, each with its batch."""
    name, _, settings = size.network.partition(":")
    return {
        f"{name}:{_joined(settings, 'precision=bfloat16')}": f"batch={size.batch}",
        size.network: f"batch={size.batch}",
        f"airbench:{_joined(size.narrow, 'precision=bfloat16')}": size.speed,
    }


def machine(_size: Size, _out: Path) -> list[Measurement]:
    """Versions, the device, and what it can do at most."""
    return [Measurement("ceilings", _ceilings)]


def steps(size: Size, out: Path) -> list[Measurement]:
    """A training step by driver, form and number of cells, the first ones under the profiler too."""
    (half, batch), (single, _), (fast, speed) = networks(size).items()
    few, many = size.cells
    wanted = (
        (half, batch, "map", "grouped", 1, True),
        (half, batch, "vmap", "unrolled", few, True),
        (single, batch, "map", "grouped", 1, False),
        (fast, speed, "map", "grouped", 1, True),
        (half, batch, "vmap", "grouped", few, True),
        (fast, speed, "vmap", "grouped", few, False),
        (half, batch, "map", "grouped", few, False),
        (half, batch, "vmap", "patches", few, False),
        (half, batch, "vmap", "mapped", few, False),
        (half, batch, "vmap", "grouped", many, False),
    )
    return [_step(size, out, *one) for one in wanted]


def pytorch(size: Size, out: Path) -> list[Measurement]:
    """The same step of the first network in PyTorch."""
    model, recipe = list(networks(size).items())[1]
    loops = ("tuned", "graphs", "plain")
    return [
        Measurement(f"{model} {loop}", partial(_time, size, out, model, recipe, (), (), (), (loop,))) for loop in loops
    ]


SWITCHES = (
    ("XLA_FLAGS=--xla_gpu_enable_command_buffer=",),
    ("XLA_FLAGS=--xla_gpu_enable_command_buffer=+CONVOLUTION", "CUDA_MODULE_LOADING=EAGER"),
    ("XLA_FLAGS=--xla_gpu_experimental_enable_conv_fusion=true",),
)
"""Environments that may matter to many short kernels, against the first row of `steps`."""


def switches(size: Size, out: Path) -> list[Measurement]:
    """The step of one cell under other switches of XLA."""
    model, recipe = next(iter(networks(size).items()))
    row = partial(_time, size, out, model, recipe, ("map",), ("grouped",), (1,))
    return [Measurement(" ".join(environment), row, environment) for environment in SWITCHES]


def small(size: Size, out: Path) -> list[Measurement]:
    """The small network, where many cells must cost little more than one."""
    model, recipe = "small_cnn:width=16", f"batch={size.batch}"
    sides = (("vmap", "grouped"), ("vmap", "patches"), ("map", "grouped"))
    return [
        Measurement(
            f"{model} {how} {form} {cells}", partial(_time, size, out, model, recipe, (how,), (form,), (cells,))
        )
        for how, form in sides
        for cells in size.small
        if (how, cells) != ("map", size.small[-1])
    ]


def speed(size: Size, out: Path) -> list[Measurement]:
    """Victims of the speed recipe to their end: seconds, accuracy and attack success."""
    model = list(networks(size))[2]
    return [
        Measurement(f"{count} seeds", partial(_train, size, out / "speed", model, size.speed, ("blended",), count))
        for count in size.seeds
        if size.data
    ]


def numbers(size: Size, out: Path) -> list[Measurement]:
    """Whether the device and bfloat16 give what a CPU and float32 give."""
    model, few = f"airbench:{size.narrow}".rstrip(":"), size.seeds[0]
    single = Measurement("float32", partial(_train, size, out / "single", model, size.speed, ("blended",), few))
    return [Measurement("quickstart", partial(_quickstart, out)), *([single] if size.data else [])]


def victims(size: Size, out: Path) -> list[Measurement]:
    """PreActResNet18 under the short recipe, then defenses of its victims, one after the other."""
    model, seeds = next(iter(networks(size))), min(2, size.seeds[1])
    made = partial(_train, size, out / "victims", model, size.short)
    asked = [(attack, (attack,), ()) for attack in ("blended", "badnets")]
    asked += [(defense, ("blended",), (defense,)) for defense in size.defenses]
    return [Measurement(name, partial(made, attacks, seeds, more)) for name, attacks, more in asked if size.data]


PARTS = {part.__name__: part for part in (machine, steps, pytorch, speed, switches, small, numbers, victims)}
SHARES = {
    "machine": 20, "steps": 170, "pytorch": 70, "speed": 110, "switches": 60, "small": 40, "numbers": 60, "victims": 300
}  # fmt: skip
"""By value, the parts; and seconds that each should take of ten minutes or so."""


def _joined(*settings: str) -> str:
    return ",".join(filter(None, settings))


def _ceilings() -> dict[str, Any]:
    import platform

    import jax

    from bdjax.bench import ceiling
    from bdjax.cells import memory

    device = jax.local_devices()[0]
    return {
        "device": str(device.device_kind),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "memory": memory.budget(),
        "bfloat16": ceiling.operations("bfloat16"),
        "float32": ceiling.operations("float"),
        "bandwidth": ceiling.bandwidth(),
    }


def _step(
    size: Size, out: Path, model: str, recipe: str, how: str, form: str, cells: int, profiled: bool
) -> Measurement:
    what = partial(_time, size, out, model, recipe, (how,), (form,), (cells,), profiled=profiled)
    return Measurement(f"{model} {how} {form} {cells}", what)


def _time(size: Size, out: Path, model: str, recipe: str, how, forms, cells, pytorch=(), profiled=False):
    from bdjax import bench
    from bdjax.engine import compiled

    compiled.keep()
    data = str(_random(out / "random.npz", size.images))
    return bench.measure(
        (model,), data, how, forms, cells, recipe, size.steps, size.rounds, pytorch=pytorch, profiled=profiled
    )


def _random(path: Path, count: int) -> Path:
    """Random images of ten classes in a file, made once."""
    if not path.exists():
        rng, test = np.random.default_rng(0), max(count // 50, 20)
        arrays = {}
        for split, size in (("train", count), ("test", test)):
            arrays[f"{split}_image"] = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
            arrays[f"{split}_label"] = (np.arange(size) % 10).astype(np.int32)
        np.savez(path.with_suffix(".part.npz"), **arrays)
        path.with_suffix(".part.npz").replace(path)
    return path


def _train(
    size: Size,
    out: Path,
    model: str,
    recipe: str,
    attacks: Sequence[str],
    seeds: int,
    defenses: Sequence[str] = (),
) -> dict[str, Any]:
    """The study of one network to its end."""
    from bdjax import Study

    study = Study(
        dataset=size.data,
        model=model,
        attacks=attacks,
        ratios=(0.0, 0.1),
        seeds=range(seeds),
        defenses=("none", *defenses),
        recipe=recipe,
        flip=True,
        driver="map",
    )
    return _run(study, out)


def _quickstart(out: Path) -> dict[str, Any]:
    from bdjax.cli.quickstart import study

    return _run(study(""), out / "quickstart")


def _run(study, out: Path) -> dict[str, Any]:
    """What a study gives, and how long it takes."""
    import time

    import bdjax

    begun = time.perf_counter()
    found = bdjax.run(study, out, progress=False)
    return {"clock": time.perf_counter() - begun, **_told(found)}


def _told(found) -> dict[str, Any]:
    """Every cell's values, and seconds of compiling."""
    frame = found[["acc", "asr", "seconds"]].to_dataframe().dropna(subset="acc").reset_index()
    rows = frame[["attack", "ratio", "seed", "defense", "acc", "asr", "seconds"]].to_dict("records")
    return {"rows": rows, "programs": found.attrs.get("programs"), "memory": found.attrs.get("memory")}


def summary(found: dict[str, dict]) -> str:
    """A line for every measurement."""
    lines = []
    for key, one in found.items():
        text = one.get("error") or "; ".join(_short(one["found"]))
        lines.append(f"{key} ({one['seconds']:.0f} s): {text}")
    return "\n".join(lines)


def _short(found: dict[str, Any]) -> Iterator[str]:
    if "bandwidth" in found:
        rates = f"{found['bfloat16'] / 1e12:.3g} and {found['float32'] / 1e12:.3g} TFLOP/s"
        yield f"{found['device']}, {rates}, {found['bandwidth'] / 1e12:.3g} TB/s"
    for need in found.get("needs", ()):
        yield f"at most {need['images_per_second']:,.0f} images/s"
    for row in found.get("rows", ()):
        if "median" in row:
            memory = "" if row["bytes"] is None else f", {row['bytes'] / 1e9:.2f} GB planned"
            speed = f"{row['median']:.3f} ms, {row['images_per_second']:,.0f} images/s, {100 * row['share']:.1f}%"
            yield f"{row['side']} {row['cells']}: {speed}, compile {row['compile_seconds']:.0f} s{memory}"
    if "clock" in found:
        yield f"{found['clock']:.0f} s in all"
        groups: dict[tuple, list[dict]] = {}
        for row in found["rows"]:
            groups.setdefault((row["attack"], row["ratio"], row["defense"]), []).append(row)
        for (attack, ratio, defense), rows in groups.items():
            acc, asr, seconds = (np.mean([row[name] for row in rows]) for name in ("acc", "asr", "seconds"))
            figures = f"ACC {100 * acc:.2f} ASR {100 * asr:.2f}, {seconds:.2f} s each"
            yield f"{attack} {ratio:g} {defense}: {figures}, n = {len(rows)}"
