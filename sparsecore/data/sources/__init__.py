"""Fetching data sets: who publishes them, how long one waits for them, and the way into the cache."""
