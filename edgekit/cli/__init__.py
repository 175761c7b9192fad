"""What a person types: thin commands over the library; the one place where errors become text and exit codes."""
