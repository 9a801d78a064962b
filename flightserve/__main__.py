"""`python -m flightserve` is the `flightserve` command."""

from flightserve.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
