"""Measured difficulty: which targets and samples, the oracle, labels, and the files that hold them."""
