"""What a governed call costs: `make bench`, or `python -m bench --help`. Start with __main__.py."""
