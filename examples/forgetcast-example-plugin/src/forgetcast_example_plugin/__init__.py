"""A factor, an unlearner and a report section for forgetcast, as a plugin would bring them."""

FORGETCAST_CONTRACT = "1.0"
"""The plugin contract that this was written for; a forgetcast that offers another major version leaves it out."""
