"""Unlearners, one file per algorithm, and the engine that runs them all by one protocol."""

from forgetcast.unlearn.base import GridUnlearner, IterativeUnlearner, Samples, Unlearner
from forgetcast.unlearn.engine import Protocol, run_unlearner

__all__ = ["GridUnlearner", "IterativeUnlearner", "Protocol", "Samples", "Unlearner", "run_unlearner"]
