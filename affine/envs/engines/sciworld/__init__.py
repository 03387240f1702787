"""The ScienceWorld engine and its texts."""
