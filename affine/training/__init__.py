"""SFT and PPO."""
