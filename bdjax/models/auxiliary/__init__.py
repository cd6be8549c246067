"""Networks of attacks and defenses that are no classifiers."""
