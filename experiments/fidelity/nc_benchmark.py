"""NC as the reference benchmark runs it: steps and schedule of inversion, flagged classes, stamped rows, fine-tuning.

The code is `defense/nc.py` of BackdoorBench, compared with `nc:preset=benchmark`.
"""

import copy
import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch
import yaml

import bdjax
from bdjax import train
from bdjax.cards import lookup
from bdjax.data import sources
from bdjax.defenses.nc import rows_of
from bdjax.keys import root, stream
from bdjax.train import inversion
from bdjax.types import Given, Trained
from experiments.fidelity import common

PATH, SIDE, ROWS, BATCH, PASSES, TARGETS = "defense/nc.py", 32, 20, 8, 12, (3, 4)
EPOCHS = 2


def made_stages(made, image, label):
    """Our two stages and what they are given; images of 255 levels."""
    sizes = f"inversion_epochs={PASSES},inversion_batch={BATCH},epochs={EPOCHS},batch={BATCH}"
    spec = lookup(f"nc:preset=benchmark,{sizes}", bdjax.DEFENSES, "defense")
    stages = bdjax.DEFENSES["nc"].make(made.net, (SIDE, SIDE, 3), common.CLASSES, **spec.static)
    clean = common.source(image, label)
    return stages, Given(spec.traced, lambda _, image: image, clean=clean, victim=made.weights)


def theirs(code, options, made, image, orders, target):
    """What is recorded of a class after passes over these rows, and the norm of each pass's best mask and its cost."""
    options.target_label = target
    ones = np.ones((1, SIDE, SIDE)), np.ones((3, SIDE, SIDE))
    model = code.RegressionModel(options, *ones, {"model": made.module.state_dict()})
    rule = torch.optim.Adam(model.parameters(), lr=options.mask_lr, betas=(0.5, 0.9))
    recorder, course = code.Recorder(options), []
    recorder.save_result_to_dir = lambda _: None
    for epoch, order in enumerate(orders):
        loader = [(common.to_torch(image[rows[rows >= 0]]), None) for rows in order]
        ended = code.train_step(model, rule, loader, recorder, epoch, options)
        free = (model.mask_tanh.detach().numpy()[0, ..., None], model.pattern_tanh.detach().numpy().transpose(1, 2, 0))
        course.append((tuple(each.copy() for each in free), float(recorder.cost), float(recorder.reg_best)))
        if ended:
            break
    best = recorder.mask_best.numpy()[0, ..., None], recorder.pattern_best.numpy().transpose(1, 2, 0)
    return best, course


def stamped(folder, image, label, mask, pattern, share):
    """The rows that they fine-tune on, uint8, under the triggers of these classes as they are found."""
    run = common.loop(folder, PATH, "mitigation", "flag_list")
    rows, first = [(one, int(true)) for one, true in zip(image, label, strict=True)], int(ROWS * (1 - share))
    read = {f"{number}/{kind}.png": (number, kind) for number in mask for kind in ("mask", "trigger")}

    def imread(path):
        number, kind = read["/".join(path.rsplit("/", 2)[1:])]
        return mask[number] if kind == "mask" else mask[number] * pattern[number]

    class Wrapped(list):
        wrapped_dataset = rows

    scope = {
        "args": SimpleNamespace(log="", input_height=SIDE, input_width=SIDE, unlearning_ratio=share),
        "os": SimpleNamespace(getcwd=lambda: ""),
        "mlt": SimpleNamespace(imread=imread),
        "cv2": SimpleNamespace(resize=lambda image, _: image),
        "Image": SimpleNamespace(fromarray=lambda image: image),
        "data_set_o": Wrapped(rows),
        "flag_list": [(number, None) for number in mask],
        "x_new": [one for one, _ in rows[:first]],
        "y_new": [one for _, one in rows[:first]],
        "original_index_array": [],
        "poison_indicator": [],
    }
    run(scope)
    return np.stack(scope["x_new"]), np.asarray(scope["y_new"])


def tuned(folder, made, batches):
    """Their network after epochs over these batches, by the optimizer and the trainer of their settings."""
    settings = yaml.safe_load((folder / "config/defense/nc/config.yaml").read_text())
    options = SimpleNamespace(**settings)
    generate = common.module(folder, "utils/aggregate_block/train_settings_generate.py")
    trainers = common.module(folder, "utils/trainer_cls.py")
    model = copy.deepcopy(made.module)
    trainer = trainers.PureCleanModelTrainer(model)
    rule, scheduler = generate.argparser_opt_scheduler(model, options)
    trainer.criterion, trainer.optimizer = torch.nn.CrossEntropyLoss(), rule
    trainer.non_blocking = trainer.amp = False
    trainer.scaler = torch.amp.GradScaler("cuda", enabled=False)
    for epoch in batches:
        for image, label in epoch:
            trainer.one_forward_backward(common.to_torch(image), torch.tensor(label), "cpu")
        scheduler.step()
    return common.weights(made.net, model)


def compare(folder):
    """Relative differences of triggers, costs, index, stamped rows and of what fine-tuning changes."""
    logging.disable(logging.WARNING)
    settings = yaml.safe_load((folder / "config/defense/nc/config.yaml").read_text()) | {"dataset": "gtsrb"}
    options = SimpleNamespace(**settings | {"device": "cpu", "to_file": False, "num_classes": common.CLASSES})
    level = np.random.RandomState(4).randint(256, size=(ROWS, SIDE, SIDE, 3)).astype(np.uint8)
    image, label = level / 255.0, (np.arange(ROWS) % common.CLASSES).astype(np.int32)
    made, figures = common.keen(common.pair(), image), {}
    names = "RegressionModel", "Recorder", "train_step", "outlier_detection"
    code = common.pieces(
        folder,
        PATH,
        *names,
        args=options,
        logging=logging,
        print=lambda *_: None,
        generate_cls_model=lambda *_: copy.deepcopy(made.module),
    )
    (find, tune), given = made_stages(made, image, label)
    keys = [jax.random.fold_in(stream(root(0), "order"), epoch) for epoch in range(PASSES)]
    state, course = find.init(root(0), given, None), []
    orders = [np.asarray(find.order(key, state, epoch, given)) for epoch, key in enumerate(keys)]

    @jax.jit
    def run(state, order):
        def step(state, rows):
            return find.step(root(0), state, given.clean.read(rows), given)[0], None

        state = jax.lax.scan(step, state, order)[0]
        return find.renew(root(0), state, {}, jnp.int32(1), given)

    for order in orders:
        state = run(state, jnp.asarray(order))
        course.append(jax.tree.map(np.asarray, (state.moving, state.still["control"])))
    for target in TARGETS:
        best, passes = theirs(code, options, made, image, orders, target)
        free = [(moving["mask"][target], moving["pattern"][target]) for moving, _ in course]
        for number in (0, PASSES - 1):
            one, two = (jax.tree.map(lambda leaf: leaf - 1, each[number]) for each in (free, [p[0] for p in passes]))
            figures[f"class {target}, pass {number + 1}, before tanh"] = common.relative(one, two)
        control = course[-1][1]
        costs = [[float(one.weight[target]) for _, one in course], [one[1] for one in passes]]
        figures[f"class {target}, {len(set(costs[1]))} costs"] = common.relative(*map(np.asarray, costs))
        figures[f"class {target}, mask and pattern kept, norm {passes[-1][2]:.1f}"] = common.relative(
            (control.mask[target], control.pattern[target]), best
        )

    draw = np.random.RandomState(2)
    norms = torch.tensor(np.append(draw.uniform(40, 60, size=8), (9.0, 12.0)))
    flagged = [number for number, _ in code.outlier_detection(norms, {one: one for one in range(10)}, options)]
    figures["flagged of 10"] = float(
        set(flagged) != set(np.flatnonzero(inversion.outliers(jnp.asarray(norms), "lower")[1]).tolist())
    )

    mask, pattern = draw.uniform(size=(10, SIDE, SIDE, 1)), draw.uniform(size=(10, SIDE, SIDE, 3))
    carry = {"mask": jnp.asarray(mask), "pattern": jnp.asarray(pattern), "norm": jnp.asarray(norms.numpy())}
    known = given._replace(carry=carry)
    source, first = rows_of(known, 5)
    late = [source.read(jnp.arange(first + n * (ROWS - first), first + (n + 1) * (ROWS - first))) for n in flagged]
    clean = sources.shuffled(given.clean).read(jnp.arange(ROWS))
    labels = np.asarray(clean.label)
    found, true = stamped(
        folder,
        np.asarray(255 * clean.image).round().astype(np.uint8),
        labels,
        {number: mask[number] for number in flagged},
        {number: pattern[number] for number in flagged},
        0.2,
    )
    ours = np.concatenate([source.read(jnp.arange(first)).image, *(one.image for one in late)])
    figures["rows stamped, in whole levels as theirs"] = common.relative(np.floor(255 * ours + 1e-9), found * 1.0)
    figures["labels"] = common.relative(np.concatenate([labels[:first], *(one.label for one in late)]), true)

    made = common.pair()
    known = known._replace(victim=made.weights)
    left = train.fit(root(0), tune, lambda _: known, (), Trained(made.weights, carry)).weights
    batches = []
    for key in keys[:EPOCHS]:
        rows = np.asarray(tune.order(key, train.State(None, None, None, None), 0, known))
        read = [source.read(jnp.asarray(one[one >= 0])) for one in rows if (one >= 0).any()]
        batches.append([(np.asarray(one.image), np.asarray(one.label)) for one in read])
    one, two = (jax.tree.map(jnp.subtract, each, made.weights) for each in (left, tuned(folder, made, batches)))
    figures["fine-tuning, parameters"] = common.relative(one.params, two.params)
    figures["fine-tuning, statistics"] = common.relative(one.batch_stats, two.batch_stats)
    return figures


COMPARISON = common.Comparison(
    "SCLBD/BackdoorBench",
    "f02e3534645f0ee63d6848653062cd6c0d6c400d",
    compare,
    (
        "Triggers are stamped as they are found, where theirs come back from images whose range is stretched.",
        "Both are tuned on the same batches, theirs by its optimizer and trainer without half precision.",
    ),
)
