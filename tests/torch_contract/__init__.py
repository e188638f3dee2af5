"""What `nn.Linear` and `nn.Conv2d` promise, held by our modules too: the same tests over both."""
