"""Detectors of poisoned rows and triggered queries. None has been written yet."""

DETECTORS = {}
