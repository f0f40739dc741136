"""`lwd explore`: a page on which one pushes back at a policy, and looks into its latent space."""
