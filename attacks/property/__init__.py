"""Property inference: facts about a client's data out of updates."""
