"""Seeded blocks: the numbers of the seed inside, the caller's own outside."""

from __future__ import annotations

import pytest
import torch

from forgetcast.target.seeding import seeded


def test_a_block_draws_what_its_seed_says() -> None:
    """The same numbers as after torch.manual_seed, whatever was drawn before."""
    torch.rand(3)
    with seeded(7):
        inside = torch.rand(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        assert torch.equal(inside, torch.rand(4))


def test_the_callers_numbers_go_on_as_if_nothing_had_been() -> None:
    """Also when the block ends with an error."""
    before = torch.random.get_rng_state()
    with seeded(7):
        torch.rand(4)
    with pytest.raises(ZeroDivisionError), seeded(8):
        torch.rand(4).tolist()[0] / 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gpus_that_take_no_part_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on the CPU seeds no GPU, for none would be put back."""
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda seed: pytest.fail("a GPU was seeded"))
    with seeded(7, torch.device("cpu")), seeded(8):
        torch.rand(1)
