"""The command line: a thin layer over what Python can call too."""
