"""Latent Weight Diffusion: generate small closed-loop policies instead of trajectories."""
