"""The predictor: from a factor table to difficulty, with intervals, familiarity and calibration."""
