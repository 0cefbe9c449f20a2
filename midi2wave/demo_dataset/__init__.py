"""A small synthetic data set for the demo and the tests."""
