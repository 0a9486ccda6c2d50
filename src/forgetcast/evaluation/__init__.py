"""How good a predictor is on targets it has not seen, and the training that rests on it."""
