"""Unlearning algorithms, one per paper, and what several of them share."""
