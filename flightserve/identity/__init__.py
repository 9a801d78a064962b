"""Who callers are: the file of `--auth`, and what it takes to recognise them by it."""
