"""``paceline bench serve`` and ``paceline bench compare``: load on servers from a process of its own."""
