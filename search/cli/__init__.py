"""What each command of `python -m search` does, from variables to exit code."""
