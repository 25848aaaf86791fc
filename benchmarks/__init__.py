"""What the project claims about speed and memory, each measured by one command."""
