"""Studies: one file per figure or table of the paper, each a declaration (`lwd.studies.study`) on common machinery."""

STUDIES = {
    "horizon": "PushT, Lift, Can: when to ask again, under disturbances and delays, LWD against its rivals (Figures 3, 4, 5, 20)",
    "compute": "Metaworld: what success costs in FLOPs per step, against Diffusion Policy and MLPs (Figure 6)",
    "snippets": "Metaworld: is an autoencoder of whole episodes better than one of short snippets? (Figures 10, 11)",
    "decoder": "Metaworld: how large does the hypernetwork have to be? (Figure 15)",
    "kl": "PushT: how much may the latent say? The weight of the KL term (Figures 12, 13)",
    "denoiser": "PushT: which network denoises latents, and at what cost? (Figure 14)",
    "worldmodel": "PushT: what does the world model add?",
    "latent": "PushT: is diffusion needed, or is a simpler source of latents enough?",
    "hypernetwork": "PushT: is the hypernetwork needed, or is a decoder of actions as good?",
    "weights": "PushT, Metaworld: which decoder of weights is best, a hypernetwork or low-rank changes to one shared policy?",
    "steps": "PushT: how few denoising steps will do?",
    "cost": "PushT: what do training and use of each method cost? Nothing is trained",
    "operators": "Lift, Can: who made a demonstration, seen in the latents; and what leaving the worse ones out does (Figures 7, 16)",
    "behaviour": "MuJoCo, Adroit: do generated policies behave like their sources? (Figures 8, 9, 17 to 19, Table 2)",
    "multitask": "Metaworld: one generator of policies for many tasks, against one MLP for them all",
}
