"""Models as flat vectors: architectures, layouts, and many models side by side."""
