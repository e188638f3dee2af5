"""The command lines: what their options mean and what they print."""
