"""``python -m counterfoil.cli``: the command line of this very interpreter."""

from counterfoil.cli import main

if __name__ == "__main__":
    main()
