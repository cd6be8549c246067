"""bdjax: backdoor attacks on image classifiers and the defenses against them, many seeds and ratios at a time."""
