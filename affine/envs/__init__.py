"""The eight environments and their experts."""
