"""A stand-in for the Claude API: `python -m governance.simulator --port N`. Start with README.md."""
