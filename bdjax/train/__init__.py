"""How a model is trained: losses, the one loop that everything which descends goes through, and recipes."""

from bdjax.train.descend import Clock, State, descend
from bdjax.train.losses import accuracy, cross_entropy, loss_gradient, mean, symmetric_cross_entropy
from bdjax.train.orders import chosen, cycled, drawn_partners, shuffled, steps_per_epoch
from bdjax.train.rules import adam, cosine, each, falling, idle, sgd
from bdjax.train.run import advance, begin, finish, fit, steps_in
from bdjax.train.supervised import begin_weights, leave_weights, look_ahead, recipe, start, supervised

__all__ = [
    "Clock",
    "State",
    "accuracy",
    "adam",
    "advance",
    "begin",
    "begin_weights",
    "chosen",
    "cosine",
    "cross_entropy",
    "cycled",
    "descend",
    "drawn_partners",
    "each",
    "falling",
    "finish",
    "fit",
    "idle",
    "leave_weights",
    "look_ahead",
    "loss_gradient",
    "mean",
    "recipe",
    "sgd",
    "shuffled",
    "start",
    "steps_in",
    "steps_per_epoch",
    "supervised",
    "symmetric_cross_entropy",
]
