"""Parts of the guides that are made, not written: tables of results, parameters, environments, speed."""
