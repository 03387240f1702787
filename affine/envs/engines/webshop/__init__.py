"""The shop: catalogue, search, pages, reward."""
