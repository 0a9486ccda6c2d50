"""A queue of deletion requests: read, given a route, ordered, verified and recorded."""
