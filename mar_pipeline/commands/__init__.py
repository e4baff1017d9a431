"""The commands of `mar`, one a file: their options, and what they do with them."""
