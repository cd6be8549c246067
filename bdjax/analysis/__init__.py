"""Analyses of stored models. None has been written yet."""

ANALYSES = {}
