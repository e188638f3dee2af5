"""Making runs: a run as a value, the networks and recipes, what runs cost, who makes them, what came of them."""
