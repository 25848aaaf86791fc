"""Secret sharing among several servers."""
