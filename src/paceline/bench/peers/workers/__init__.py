"""Programs that put engines without a server of their own behind one line protocol."""
