"""Where arrays live and kernel calls run."""
