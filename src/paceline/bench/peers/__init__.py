"""``paceline bench peers``: whole engines beside each other, one request shape at a time, one engine at a time."""
