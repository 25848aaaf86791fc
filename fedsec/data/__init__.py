"""Datasets, partitions and the examples they hold."""
