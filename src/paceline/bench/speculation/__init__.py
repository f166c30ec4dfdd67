"""``paceline bench spec``: the same prompts with drafts and without, in one engine, in turns."""
