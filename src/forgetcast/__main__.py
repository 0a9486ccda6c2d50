"""``python -m forgetcast`` is the command ``forgetcast``."""

from forgetcast.cli import main

if __name__ == "__main__":
    main(prog_name="forgetcast")
