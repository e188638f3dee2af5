"""What every command line of this package shares: argument types, output on one line, orderly interruption."""
