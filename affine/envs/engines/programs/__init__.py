"""Generated programs and the sandbox that runs them (ABD, DED)."""
