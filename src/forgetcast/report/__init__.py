"""What a forecast says of its samples: explanations, counterfactuals, movers, and the pages that show them."""

from __future__ import annotations

from forgetcast._former_paths import found_in

__getattr__ = found_in(
    __name__,
    ("report.page",),
    (
        "render_html",
        "write_html",
    ),
)
