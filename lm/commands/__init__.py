"""A file a command: its words and its output; what it does is done on the floors beneath."""
