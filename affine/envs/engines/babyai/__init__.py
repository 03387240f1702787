"""MiniGrid in words, and the bot."""
