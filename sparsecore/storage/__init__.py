"""Which connections there are, and how kernels walk them."""
