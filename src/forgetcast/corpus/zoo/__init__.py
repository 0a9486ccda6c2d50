"""Published targets: datasets, architectures and training recipes that the published corpus is made of."""
