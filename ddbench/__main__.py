"""``python -m ddbench`` is the ``ddbench`` command."""

from ddbench.cli.main import run

if __name__ == "__main__":
    run()
