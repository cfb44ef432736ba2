"""`python -m taskfarmer`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="taskfarmer")
