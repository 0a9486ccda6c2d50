"""What a forecast says of its samples: explanations, counterfactuals, movers, and the pages that show them."""
