"""Programs that show flightserve at work; run from the root of the repository."""
