"""Measures cost, each figure beside a named reference of the same run: `./scripts/bench [simulate] [data] ...`."""
