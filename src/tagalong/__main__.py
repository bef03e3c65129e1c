"""`python -m tagalong` is the command `tagalong`."""

from tagalong.cli import main

if __name__ == "__main__":
    main()
