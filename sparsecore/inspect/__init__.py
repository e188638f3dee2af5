"""Looking at a network's structure: who is connected to whom, what is dead, how many paths there are."""
