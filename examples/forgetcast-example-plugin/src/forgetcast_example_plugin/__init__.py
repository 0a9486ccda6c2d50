"""A factor and an unlearner for forgetcast, as a plugin would bring them."""
