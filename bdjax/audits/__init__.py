"""Audits: questions put to a model after training or purification."""

AUDITS = {}
