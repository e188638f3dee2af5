"""What is promised of runs, files and processes, tried hard; `pytest -m slow` tries for longer."""
