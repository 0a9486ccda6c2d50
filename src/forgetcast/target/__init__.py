"""What is forecast: a trained model with its data, checked once, and how both are read."""
