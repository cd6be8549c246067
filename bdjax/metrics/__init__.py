"""How a model is judged: rates, how visible a trigger is, where models lie in weight space."""

from bdjax.metrics.rates import accuracy, counts, der, evaluate, rates

__all__ = ["accuracy", "counts", "der", "evaluate", "rates"]
