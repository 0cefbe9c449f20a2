"""Files, processes and the command line."""
