"""The command lines: what their flags mean and what they print."""
